//! Values by a short text, as a look-up likes them: few places in memory are touched, whatever the map's size.
//!
//! Texts of up to 23 bytes lie in the map itself. The hash has no secret: keys are what operators and services declare,
//! requests only look up.
//!
//! Deliberately absent: an order.

use foldhash::fast::FixedState;
use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};
use smol_str::SmolStr;

/// Values by text. A clone shares everything.
pub(super) type TextMap<V> = GenericHashMap<SmolStr, V, FixedState, DefaultSharedPtr>;
