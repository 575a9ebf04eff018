//! All that an HTTP/2 connection to an instance writes in one turn, in one write.
//!
//! h2 writes every piece of a body as soon as it has framed it, so that requests that are ready at the same moment are as
//! many system calls. Here they come together until the connection's task has nothing more to say. To copy a kilobyte
//! costs a fraction of a system call; what is large is passed on as it is.
//!
//! Deliberately absent: when a turn is over. Whoever polls the connection writes out then.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};

/// From how many bytes on a write is passed on as it is.
const LARGE: usize = 8 << 10;
/// How many bytes are gathered at most before they are written out.
const MOST: usize = 32 << 10;
/// What is set aside for the first bytes of a turn.
const FIRST: usize = 4 << 10;

/// A stream whose writes are gathered. A clone is the same stream.
pub(crate) struct Gather<T>(Rc<RefCell<Inner<T>>>);

struct Inner<T> {
    stream: T,
    gathered: BytesMut,
    /// Whether the stream was written to since it was last flushed.
    unflushed: bool,
    /// Whether something was read since that was last asked.
    was_heard: bool,
}

impl<T> Clone for Gather<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: Write + Unpin> Gather<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            stream,
            gathered: BytesMut::new(),
            unflushed: false,
            was_heard: false,
        })))
    }

    /// Writes out what was gathered.
    ///
    /// # Errors
    /// The stream's.
    pub(crate) fn poll_write_out(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_write_out(context)
    }

    /// Whether something was read since this was last called.
    pub(crate) fn take_heard(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().was_heard)
    }
}

impl<T: Write + Unpin> Inner<T> {
    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(context))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_empty(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gathered.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.gathered.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.gathered))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(count);
            self.unflushed = true;
        }
        // A connection that says nothing holds no memory for it.
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let count = slices.iter().map(|slice| slice.len()).sum();
        if count >= LARGE {
            ready!(self.poll_empty(context))?;
            self.unflushed = true;
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        if self.gathered.len() + count > MOST {
            ready!(self.poll_empty(context))?;
        }
        if self.gathered.is_empty() {
            self.gathered.reserve(FIRST);
        }
        slices.iter().for_each(|slice| self.gathered.extend_from_slice(slice));
        Poll::Ready(Ok(count))
    }
}

impl<T: Read + Unpin> Read for Gather<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        let read = Pin::new(&mut inner.stream).poll_read(context, buffer);
        inner.was_heard |= read.is_ready();
        read
    }
}

impl<T: Write + Unpin> Write for Gather<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: the end of the turn does it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_write_out(context))?;
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    fn pair(room: usize) -> (Gather<TokioIo<DuplexStream>>, DuplexStream) {
        let (near, far) = duplex(room);
        (Gather::new(TokioIo::new(near)), far)
    }

    async fn write_all(gather: &mut Gather<TokioIo<DuplexStream>>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = poll_fn(|context| Pin::new(&mut *gather).poll_write(context, bytes)).await;
            bytes = &bytes[count.expect("it is written")..];
        }
    }

    #[tokio::test]
    async fn nothing_is_written_before_the_turn_is_over() {
        let (mut gather, mut far) = pair(1 << 20);
        for _ in 0..3 {
            write_all(&mut gather, b"piece ").await;
            poll_fn(|context| Pin::new(&mut gather).poll_flush(context)).await.expect("it is put off");
        }
        let mut read = [0; 64];
        let early = poll_fn(|context| {
            let mut buffer = tokio::io::ReadBuf::new(&mut read);
            Poll::Ready(tokio::io::AsyncRead::poll_read(Pin::new(&mut far), context, &mut buffer).is_ready())
        });
        assert!(!early.await);
        poll_fn(|context| gather.poll_write_out(context)).await.expect("it is written");
        let count = far.read(&mut read).await.expect("it is read");
        assert_eq!(&read[..count], b"piece piece piece ");
    }

    #[tokio::test]
    async fn what_was_gathered_comes_before_the_end() {
        let (mut gather, mut far) = pair(16);
        write_all(&mut gather, &[7; 1000]).await;
        let end = poll_fn(|context| Pin::new(&mut gather).poll_shutdown(context));
        let mut read = Vec::new();
        let (ended, got) = tokio::join!(end, far.read_to_end(&mut read));
        assert!(ended.is_ok() && got.is_ok());
        assert_eq!(read, [7; 1000]);
    }

    proptest! {
        #[test]
        fn a_slow_reader_gets_all_bytes_in_order(
            writes in prop::collection::vec((0_usize..20_000, any::<bool>()), 1..20),
            room in 1_usize..5_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let sent: Vec<u8> = (0..writes.iter().map(|(count, _)| count).sum()).map(|at: usize| at as u8).collect();
            let read = runtime.block_on(async {
                let (mut gather, mut far) = pair(room);
                let write = async {
                    let mut rest = &sent[..];
                    for (count, is_last_of_turn) in &writes {
                        let (now, later) = rest.split_at(*count);
                        write_all(&mut gather, now).await;
                        rest = later;
                        if *is_last_of_turn {
                            poll_fn(|context| gather.poll_write_out(context)).await.expect("it is written");
                        }
                    }
                    poll_fn(|context| Pin::new(&mut gather).poll_shutdown(context)).await.expect("it ends");
                };
                let mut read = Vec::new();
                let (_, got) = tokio::join!(write, far.read_to_end(&mut read));
                got.expect("it is read");
                read
            });
            prop_assert!(read == sent);
        }
    }
}
