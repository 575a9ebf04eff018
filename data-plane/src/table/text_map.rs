//! Values by a short text, as a look-up likes them: few places in memory are touched, whatever the map's size.
//!
//! Texts of up to 36 bytes lie in the map itself. The hash has no secret: keys are what operators and services declare,
//! requests only look up.
//!
//! Deliberately absent: an order.

use foldhash::fast::FixedState;
use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};
use smallstr::SmallString;

/// A key.
pub(super) type Text = SmallString<[u8; 36]>;

/// Values by text. A clone shares everything.
pub(super) type TextMap<V> = GenericHashMap<Text, V, FixedState, DefaultSharedPtr>;
