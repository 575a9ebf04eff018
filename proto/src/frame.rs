//! Messages of the snapshot stream, encoded once and sent to many.
//!
//! tonic encodes each message for each subscriber. A [`Frame`] holds the bytes of a `SubscribeResponse`
//! that was encoded before; [`FrameCodec`] copies them to the wire as they are. On the wire there is no
//! difference, so clients use the generated code.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::v1::SubscribeResponse;

/// An encoded [`SubscribeResponse`]. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct Frame(Bytes);

impl Frame {
    /// Encodes a message, once.
    pub fn new(message: &SubscribeResponse) -> Self {
        Self(message.encode_to_vec().into())
    }

    /// The length of the message in bytes, without gRPC's own five.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the message is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The bytes of the message.
impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Sends [`Frame`]s as they are and decodes requests of type `U` with prost.
#[derive(Debug)]
pub struct FrameCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for FrameCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<U: Message + Default + Send + 'static> Codec for FrameCodec<Frame, U> {
    type Encode = Frame;
    type Decode = U;
    type Encoder = FrameEncoder;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

/// Copies a frame to the wire.
#[derive(Debug)]
pub struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, destination: &mut EncodeBuf<'_>) -> Result<(), Status> {
        destination.reserve(frame.0.len());
        destination.put_slice(&frame.0);
        Ok(())
    }
}

/// Decodes a prost message.
#[derive(Debug)]
pub struct MessageDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(source)
            .map(Some)
            .map_err(|error| Status::internal(format!("the message cannot be decoded: {error}")))
    }
}
