//! An instance and a client that speak HTTP/2 frame by frame (RFC 9113, section 4), so that they can say what no well-kept
//! program says.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::soon;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;

/// `SETTINGS_INITIAL_WINDOW_SIZE`, and the largest window.
const INITIAL_WINDOW_SIZE: u16 = 4;
const LARGEST: u32 = (1 << 31) - 1;
/// What a connection's window is at first.
const FIRST_WINDOW: u32 = 65_535;

/// `SETTINGS_MAX_CONCURRENT_STREAMS`.
pub(crate) const MOST_STREAMS: u16 = 3;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:status: 200` (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// A frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// The number in a frame that carries one: an error code, or a window's increment.
    pub(crate) fn number(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().expect("four bytes"))
    }
}

/// One end of a connection: an instance's, or a client's.
pub(crate) struct Frames(TcpStream);

impl Frames {
    /// A client's connection to the proxy, over which answers may be as large as they like.
    pub(crate) async fn connect(proxy: SocketAddr) -> Self {
        let mut socket = soon("a connection", TcpStream::connect(proxy)).await.expect("the proxy listens");
        socket.set_nodelay(true).expect("a TCP socket");
        soon("writing", socket.write_all(PREFACE)).await.expect("the proxy reads");
        let mut frames = Self(socket);
        let window = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &LARGEST.to_be_bytes()].concat();
        frames.send(SETTINGS, 0, 0, &window).await;
        frames.send(WINDOW_UPDATE, 0, 0, &(LARGEST - FIRST_WINDOW).to_be_bytes()).await;
        frames
    }

    /// The head of a client's request.
    pub(crate) async fn ask(&mut self, stream: u32, method: &str, path: &str, flags: u8) {
        let fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)];
        self.fields(stream, &[], &fields, flags).await;
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // A proxy that has closed shows when it is read from.
        let _ = soon("writing", self.0.write_all(&frame)).await;
    }

    /// A head with status 200 and more fields.
    pub(crate) async fn head(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) {
        self.fields(stream, &[STATUS_200], fields, flags).await;
    }

    /// A head with another status.
    pub(crate) async fn status(&mut self, stream: u32, status: &str, flags: u8) {
        // A literal with the name of the table's eighth entry, `:status` (RFC 7541, appendix A).
        let length = u8::try_from(status.len()).expect("a status");
        self.fields(stream, &[&[8, length], status.as_bytes()].concat(), &[], flags).await;
    }

    /// Trailers.
    pub(crate) async fn trailers(&mut self, stream: u32, fields: &[(&str, &str)]) {
        self.fields(stream, &[], fields, END_STREAM).await;
    }

    async fn fields(&mut self, stream: u32, first: &[u8], fields: &[(&str, &str)], flags: u8) {
        let mut block = first.to_vec();
        for (name, value) in fields {
            // A literal that is not to be remembered, with a new name (RFC 7541, section 6.2.2).
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).expect("a short text"));
                block.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, flags | END_HEADERS, stream, &block).await;
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub(crate) async fn go_away(&mut self, last: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }

    /// Lets the proxy send more on a stream and on the connection; on stream 0, on the connection alone.
    pub(crate) async fn widen(&mut self, stream: u32, by: u32) {
        self.send(WINDOW_UPDATE, 0, 0, &by.to_be_bytes()).await;
        if stream != 0 {
            self.send(WINDOW_UPDATE, 0, stream, &by.to_be_bytes()).await;
        }
    }

    /// The next frame, settings and pings answered. `None`: the proxy has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            soon("a frame", self.0.read_exact(&mut head)).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).expect("a length")];
            soon("a frame", self.0.read_exact(&mut payload)).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let frame = Frame { kind: head[3], flags: head[4], stream, payload };
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload).await,
                SETTINGS => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next frame of a kind; others are passed over.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("closed before a frame of kind {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The next request's stream, once all of the request has come.
    pub(crate) async fn request(&mut self) -> u32 {
        loop {
            let frame = self.next().await.expect("a request");
            if matches!(frame.kind, HEADERS | DATA) && frame.ends_stream() {
                return frame.stream;
            }
        }
    }

    /// An answer with a body.
    pub(crate) async fn answer(&mut self, stream: u32, body: &str) {
        self.head(stream, &[], 0).await;
        self.send(DATA, END_STREAM, stream, body.as_bytes()).await;
    }

    /// Closes the connection once the proxy has, so that nothing is lost by a reset.
    pub(crate) async fn finish(&mut self) {
        let _ = self.0.shutdown().await;
        while self.next().await.is_some() {}
    }
}

/// An instance whose connections follow a script, which gets the connection and its number, from 0 on.
pub(crate) struct FrameInstance {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl FrameInstance {
    pub(crate) async fn start<F>(script: impl Fn(Frames, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::allowing(None, script).await
    }

    /// The same where it allows so many streams at once.
    pub(crate) async fn allowing<F>(
        streams: Option<u32>,
        script: impl Fn(Frames, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                socket.set_nodelay(true).expect("a TCP socket");
                let mut preface = [0; PREFACE.len()];
                if socket.read_exact(&mut preface).await.is_err() {
                    continue;
                }
                assert_eq!(preface, PREFACE);
                let mut frames = Frames(socket);
                let settings =
                    streams.map(|streams| [&MOST_STREAMS.to_be_bytes()[..], &streams.to_be_bytes()].concat());
                frames.send(SETTINGS, 0, 0, &settings.unwrap_or_default()).await;
                tokio::spawn(script(frames, number));
            }
        });
        Self { address, accepted }
    }

    /// How many connections it has accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}
