//! `waypost dev`: a control plane, proxies and, with `--demo`, two sample services, as processes of this one.
//!
//!     plan ──▶ programs found, ports free ──▶ control plane ──▶ proxies ──▶ services ──▶ banner
//!                                                                                         │ Ctrl-C, or the tour's end
//!     record removed ◀── control plane ◀── proxies ◀── services (each finishes what is in flight)
//!
//! Order matters at the end: services drain while there are proxies to wait for, proxies finish what their
//! clients have asked, and what both report to goes last. Deliberately absent: anything that an installation needs (users, limits,
//! boot order); that is what `deploy/` is for.

mod banner;
mod down;
pub(crate) mod http;
mod log;
mod plan;
mod ports;
mod process;
mod record;
mod stack;
mod unit;

pub(crate) use self::{
    plan::{SampleUnit, TOUR_TTL},
    stack::Stack,
};

use waypost_sdk::launch;

use self::{plan::Plan, record::Record};
use crate::{
    args::{DevAction, DevArgs, Global},
    failure::{Exit, Failure},
    output::Output,
    tour,
};

/// Runs everything until Ctrl-C or, with `--tour`, until the tour has ended.
///
/// # Errors
/// A program is missing or does not start, a port is taken, or an act of the tour did not hold.
pub(crate) async fn run(global: &Global, output: &Output, args: DevArgs) -> Result<(), Failure> {
    if let Some(DevAction::Down) = args.action {
        return down::run(output).await;
    }
    let plan = Plan::new(&args, global.log.as_deref());
    let interrupted = launch::shutdown();
    tokio::pin!(interrupted);
    let mut stack = Stack::new(plan, output, Record::create(output))?;
    let result = tokio::select! {
        result = serve(&mut stack, output, &args) => result,
        signal = &mut interrupted => {
            output.note(format!("{}: ending everything; once more to end it at once", signal?));
            if args.tour { Err(Failure::new(Exit::Failed, "the tour was interrupted")) } else { Ok(()) }
        }
    };
    tokio::select! {
        () = stack.stop() => {}
        _ = launch::shutdown_again() => stack.kill().await,
    }
    result
}

async fn serve(stack: &mut Stack, output: &Output, args: &DevArgs) -> Result<(), Failure> {
    stack.start().await?;
    if args.tour {
        return Box::pin(tour::run(stack, output)).await;
    }
    banner::show(stack, output, args.demo)?;
    std::future::pending().await
}
