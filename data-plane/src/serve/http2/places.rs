//! The requests of a connection, each in a place of its own.
//!
//! ```text
//!   empty ─ a head ─▶ asking ─ its answer's head ─▶ answering ─▶ empty
//!                        └───── taken back, or reset ─────┴────▶ empty
//! ```

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::Response;

use super::{
    answer::{Answer, Progress},
    body::{Inbox, Shared},
    ready::Ready,
};
use crate::{forward::ResponseBody, http2::Key, serve::Worker};

/// What will be an answer.
type Asking = Pin<Box<dyn Future<Output = Response<ResponseBody>>>>;

/// All places of a connection.
pub(super) struct Places {
    places: Vec<Place>,
    wakers: Vec<Waker>,
    ready: Arc<Ready>,
    /// Which place is first.
    turn: usize,
}

#[derive(Default)]
struct Place {
    work: Option<Work>,
    /// Where the body of the request goes, while there is more to come.
    inbox: Option<Rc<Inbox>>,
    /// What the answer waits for, beside itself.
    waits_for: Option<Room>,
}

/// What lets an answer go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// A window that grows.
    Window,
    /// Output that was written.
    Output,
}

enum Work {
    Asking(Key, Asking),
    Answering(Box<Answer>),
}

impl Places {
    /// So many places at most.
    pub(super) fn new(most: usize) -> Self {
        Self { places: Vec::new(), wakers: Vec::new(), ready: Ready::new(most), turn: 0 }
    }

    /// Begins a turn of the task.
    pub(super) fn begin_turn(&self, task: &Waker) {
        self.ready.begin(task);
    }

    /// Ends it. Whether there is something to do already.
    pub(super) fn end_turn(&self) -> bool {
        self.ready.end()
    }

    /// Begins a request.
    pub(super) fn begin(&mut self, key: Key, asking: Asking, inbox: Option<Rc<Inbox>>) {
        while self.places.len() <= key.place {
            self.wakers.push(self.ready.waker(self.places.len()));
            self.places.push(Place::default());
        }
        let work = Some(Work::Asking(key, asking));
        self.places[key.place] = Place { work, inbox, waits_for: None };
        self.ready.set(key.place);
    }

    /// Where a request's body goes. It is needed no more with its end.
    pub(super) fn inbox(&mut self, key: Key, ends: bool) -> Option<Rc<Inbox>> {
        let inbox = &mut self.places.get_mut(key.place)?.inbox;
        let found = if ends { inbox.take() } else { inbox.clone() };
        found.filter(|inbox| inbox.key() == key)
    }

    /// Lets go of a request.
    pub(super) fn give_up(&mut self, key: Key) {
        if let Some(place) = self.places.get_mut(key.place) {
            std::mem::take(place).give_up();
        }
    }

    /// Lets go of all requests.
    pub(super) fn give_up_all(&mut self) {
        std::mem::take(&mut self.places).into_iter().for_each(Place::give_up);
        self.wakers.clear();
    }

    /// Lets an answer go on that waits for a window.
    pub(super) fn unblock(&self, key: Key) {
        if self.places.get(key.place).is_some_and(|place| place.waits_for == Some(Room::Window)) {
            self.ready.set(key.place);
        }
    }

    /// Lets all answers go on that wait for this. None that waits for the other: it would find that it has to wait still,
    /// and the task would turn round and round.
    pub(super) fn unblock_all(&self, room: Room) {
        for (at, place) in self.places.iter().enumerate() {
            if place.waits_for == Some(room) {
                self.ready.set(at);
            }
        }
    }

    /// Lets those requests go on that have something to do, each once.
    pub(super) fn go_on(&mut self, shared: &Shared, worker: &Rc<Worker>) {
        // Who is first is another one each time, so that none has the window to itself.
        let start = (self.turn % 64) as u32;
        for at in 0..self.ready.words() {
            let (first, bits) = self.ready.take(self.turn.wrapping_add(at));
            let mut left = bits.rotate_right(start);
            while left != 0 {
                let offset = left.trailing_zeros();
                left &= left - 1;
                self.go_on_at(first + ((start + offset) % 64) as usize, shared, worker);
            }
        }
        self.turn = self.turn.wrapping_add(1);
    }

    fn go_on_at(&mut self, at: usize, shared: &Shared, worker: &Rc<Worker>) {
        let (Some(place), Some(waker)) = (self.places.get_mut(at), self.wakers.get(at)) else { return };
        let mut context = Context::from_waker(waker);
        if let Some(Work::Asking(key, asking)) = &mut place.work {
            let Poll::Ready(response) = asking.as_mut().poll(&mut context) else { return };
            let answer = Answer::begin(shared, worker, *key, response);
            place.work = answer.map(|answer| Work::Answering(Box::new(answer)));
        }
        place.waits_for = None;
        if let Some(Work::Answering(answer)) = &mut place.work {
            match answer.go_on(shared, &mut context) {
                Progress::Over => {
                    let key = answer.key();
                    place.work = None;
                    place.let_go_of_body(key, shared);
                }
                Progress::Blocked => place.waits_for = Some(Room::Window),
                Progress::HeldBack => place.waits_for = Some(Room::Output),
                Progress::Paused => {}
                Progress::Yielded => self.ready.set(at),
            }
        }
    }
}

impl Place {
    /// Where an answer has broken off there is no more of the request's body either.
    fn let_go_of_body(&mut self, key: Key, shared: &Shared) {
        if self.inbox.is_some()
            && !shared.connection.borrow_mut().is_open(key)
            && let Some(inbox) = self.inbox.take()
        {
            inbox.break_off();
        }
    }

    /// Who reads its body learns that there is no more of it.
    fn give_up(self) {
        if let Some(inbox) = &self.inbox {
            inbox.break_off();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_looked_at_again_when_what_it_waits_for_is_there() {
        for (waits_for, other) in [(Room::Window, Room::Output), (Room::Output, Room::Window)] {
            let mut places = Places::new(1);
            places.places.push(Place { waits_for: Some(waits_for), ..Place::default() });
            places.begin_turn(Waker::noop());
            places.unblock_all(other);
            assert!(!places.end_turn(), "the task would go round and round");
            places.begin_turn(Waker::noop());
            places.unblock_all(waits_for);
            assert!(places.end_turn());
        }
    }
}
