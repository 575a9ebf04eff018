//! Spawns hyper's HTTP/2 tasks onto the thread they belong to.

use std::future::Future;

/// Spawns onto the current thread's runtime. Futures need not be `Send`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
