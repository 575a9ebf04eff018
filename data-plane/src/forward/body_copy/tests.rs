//! Copies against a naive model, and what ends them.

use futures_util::FutureExt;
use http_body_util::BodyExt;
use proptest::prelude::*;

use super::*;

fn data(length: usize) -> Frame<Bytes> {
    Frame::data(Bytes::from(vec![b'x'; length]))
}

/// What can be had of a copy at once: `None` while there is nothing.
fn next(copy: &mut CopiedBody) -> Option<Option<Result<usize, BrokenOff>>> {
    let frame = copy.frame().now_or_never()?;
    Some(frame.map(|frame| frame.map(|frame| frame.into_data().map_or(0, |data| data.len()))))
}

#[test]
fn a_copy_has_all_frames_and_the_trailers_of_a_whole_body() {
    let copies = Copies::default();
    let mut copy = copies.begin(SizeHint::with_exact(5));
    assert_eq!(next(&mut copy), None);
    copies.pass(&data(2));
    copies.pass(&data(3));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("1"));
    copies.pass(&Frame::trailers(trailers.clone()));
    copies.end();
    drop(copies);
    assert_eq!(copy.size_hint().exact(), Some(5));
    let whole = copy.collect().now_or_never().expect("it is there").expect("it is whole");
    assert_eq!(whole.trailers(), Some(&trailers));
    assert_eq!(whole.to_bytes().len(), 5);
}

#[test]
fn a_copy_breaks_off_where_the_body_does_but_has_what_came_before() {
    for breaks in [Copies::break_off, |_: &Copies| {}] {
        let copies = Copies::default();
        let mut copy = copies.begin(SizeHint::default());
        copies.pass(&data(2));
        breaks(&copies);
        drop(copies);
        assert_eq!(next(&mut copy), Some(Some(Ok(2))));
        assert_eq!(next(&mut copy), Some(Some(Err(BrokenOff))));
        assert!(!copy.is_end_stream());
    }
}

#[test]
fn the_end_is_known_with_the_last_frame() {
    let copies = Copies::default();
    let mut copy = copies.begin(SizeHint::default());
    copies.pass(&data(2));
    copies.end();
    assert!(!copy.is_end_stream());
    assert_eq!(next(&mut copy), Some(Some(Ok(2))));
    assert!(copy.is_end_stream());
}

#[test]
fn one_who_waits_is_told_when_nothing_more_is_copied_and_whether_that_is_all() {
    for (close, whole) in [(Copies::end as fn(&Copies), true), (Copies::break_off, false)] {
        let copies = Copies::default();
        let copy = copies.begin(SizeHint::default());
        let original = copy.original();
        assert_eq!(original.is_whole().now_or_never(), None);
        close(&copies);
        assert_eq!(original.is_whole().now_or_never(), Some(whole));
    }
}

#[test]
fn a_copy_that_nobody_reads_any_more_holds_nothing() {
    let copies = Copies::default();
    drop(copies.begin(SizeHint::default()));
    let bytes = Bytes::from(vec![0; 10]);
    copies.pass(&Frame::data(bytes.clone()));
    assert!(bytes.is_unique());
}

proptest! {
    #[test]
    fn at_most_the_bound_and_a_frame_are_held_and_a_reader_in_time_gets_all(
        steps in proptest::collection::vec((any::<bool>(), 1..MOST_HELD), 1..40),
    ) {
        let copies = Copies::default();
        let mut copy = copies.begin(SizeHint::default());
        let (mut held, mut broken) = (VecDeque::new(), false);
        for (reads, length) in steps {
            if reads {
                let expected = match held.pop_front() {
                    Some(length) => Some(Some(Ok(length))),
                    None if broken => Some(Some(Err(BrokenOff))),
                    None => None,
                };
                prop_assert_eq!(next(&mut copy), expected);
            } else {
                copies.pass(&data(length));
                if held.iter().sum::<usize>() >= MOST_HELD {
                    broken = true;
                    held.clear();
                } else if !broken {
                    held.push_back(length);
                }
            }
        }
    }
}
