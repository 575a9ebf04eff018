//! A behaviour that the Gateway API's specification asks for, and the promise that shows it.

use std::pin::Pin;

use waypost_tests::gateway::Scene;

/// How much the specification asks for a behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Every implementation has it.
    Core,
    /// It is portable, but not everywhere.
    Extended,
    /// The specification leaves it to implementations.
    Implementation,
}

impl Level {
    /// As the specification calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Core => "Core",
            Self::Extended => "Extended",
            Self::Implementation => "Implementation-specific",
        }
    }
}

/// Shows a behaviour in a scene that has nothing declared.
pub(crate) type Run = for<'a> fn(&'a Scene) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A behaviour with its test.
pub(crate) struct Case {
    /// How much the specification asks for it.
    pub(crate) level: Level,
    /// The feature, as the specification's list of features or its conformance suite names it.
    pub(crate) feature: &'static str,
    /// What must hold, in the specification's words, shortened.
    pub(crate) says: &'static str,
    /// Shows it.
    pub(crate) run: Run,
}

/// A [`Case`] from an `async fn(&Scene)`.
macro_rules! case {
    ($level:ident $feature:literal $says:literal $run:path) => {
        $crate::case::Case {
            level: $crate::case::Level::$level,
            feature: $feature,
            says: $says,
            run: |scene| Box::pin($run(scene)),
        }
    };
}
pub(crate) use case;
