//! The acts of the tour, one function each, in the order in which they are shown.
//!
//! What an act waits for is a condition with a limit, seen through the SDK, as any other program would see
//! it. A condition that does not come true is a complaint, and the tour goes on, so that it tells all that
//! did not hold.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};
use waypost_proto::{reason::REASON_HEADER, v1};
use waypost_sdk::{Client, WatchEvent};

use super::{
    load::{self, Load, Tally, Target},
    report::{CommitToApplied, Report},
};
use crate::{
    args::SampleService,
    dev::{SampleUnit, Stack, TOUR_TTL, http},
    failure::Failure,
    output::text,
};

/// The lease of the sample services.
const TTL: Duration = TOUR_TTL;
/// What an instance that was killed may take to leave every table, beyond its lease, on a busy machine, too.
const LEAVE_GRACE: Duration = Duration::from_secs(5);
const OUTAGE: Duration = Duration::from_secs(3);
/// How long load goes on before and after what an act does.
const AROUND: Duration = Duration::from_millis(1_000);
const CONVERGE_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
const BALANCED: u32 = 300;
const AFTERWARDS: u32 = 90;

/// The tour on its way.
pub(super) struct Tour<'a> {
    stack: &'a mut Stack,
    client: Client,
    report: Report<'a>,
}

impl<'a> Tour<'a> {
    /// A tour of what runs.
    ///
    /// # Errors
    /// The control plane's address is none.
    pub(super) fn new(stack: &'a mut Stack, report: Report<'a>) -> Result<Self, Failure> {
        let client = Client::builder()
            .control_plane(stack.grpc().to_string())
            .client_name("waypost dev --tour")
            .build()?;
        Ok(Self { stack, client, report })
    }

    /// All acts, one after the other.
    ///
    /// # Errors
    /// One could not go on.
    pub(super) async fn play(&mut self) -> Result<(), Failure> {
        self.register_and_route().await?;
        self.balance().await?;
        self.replace().await?;
        self.kill().await?;
        self.outage().await
    }

    /// The summary.
    ///
    /// # Errors
    /// An act did not hold.
    pub(super) fn end(self, took: Duration) -> Result<(), Failure> {
        self.report.end(took)
    }

    async fn register_and_route(&mut self) -> Result<(), Failure> {
        self.report.open(
            "register and route",
            &["Two services have registered themselves. Nothing was configured: a service is reachable by its name."],
        )?;
        let mut complaints = Vec::new();
        self.applied().await?;
        let services = self.client.services("").await?.services;
        for service in &services {
            let name = text::service(service.key.as_ref());
            self.report.say(&format!("{name}: {}", text::count(service.up as usize, "instance")))?;
        }
        let up: BTreeMap<String, u32> =
            services.iter().map(|service| (text::service(service.key.as_ref()), service.up)).collect();
        if up != BTreeMap::from([("clock".to_owned(), 3), ("greeter".to_owned(), 3)]) {
            complaints.push(format!("expected clock and greeter with 3 instances each, found {up:?}"));
        }
        let mut tally = Tally::default();
        for proxy in self.traffic() {
            let mut client = load::Client::new(proxy);
            for target in [Target::Greeter, Target::Clock] {
                let asked = Instant::now();
                tally.count(target, client.ask(target, "hello").await, asked.elapsed());
            }
        }
        complaints.extend(self.show_answers().await?);
        let applied = self.commit_to_applied().await;
        self.report.close("register and route", &tally, applied, complaints)
    }

    /// One answer of each kind of route, and that of the proxy itself where there is none.
    async fn show_answers(&self) -> Result<Vec<String>, Failure> {
        let mut complaints = Vec::new();
        let Some(proxy) = self.traffic().first().copied() else {
            return Ok(vec!["there is no proxy".to_owned()]);
        };
        for (path, status) in
            [("/greeter/hello", 200), ("/hello/ada", 200), ("/clock", 200), ("/nowhere", 404)]
        {
            let answer = match http::get(proxy, path).await {
                Ok(answer) => answer,
                Err(error) => {
                    complaints.push(format!("GET {path}: {error}"));
                    continue;
                }
            };
            let body = String::from_utf8_lossy(&answer.body);
            let reason = answer.headers.get(REASON_HEADER).and_then(|value| value.to_str().ok());
            let shown = match reason {
                Some(reason) => format!("{REASON_HEADER}: {reason}"),
                None => body.lines().next().unwrap_or_default().to_owned(),
            };
            self.report.say(&format!("GET {path:<15} {} {shown}", answer.status.as_u16()))?;
            if answer.status != status || (status == 404 && reason != Some("no_route")) {
                complaints.push(format!(
                    "GET {path}: expected {status}, got {}: {}",
                    answer.status,
                    body.trim()
                ));
            }
        }
        Ok(complaints)
    }

    async fn balance(&mut self) -> Result<(), Failure> {
        self.report.open(
            "balance",
            &["Requests to greeter, one after the other, spread over its three instances."],
        )?;
        let tally = self.ask_greeter(BALANCED).await;
        let mut complaints = Vec::new();
        for (instance, (_, count)) in &tally.greeters {
            let share = *count as f64 / f64::from(BALANCED);
            self.report.say(&format!("{instance}: {count} ({:.0} %)", share * 100.0))?;
            if !(0.20..=0.47).contains(&share) {
                complaints.push(format!("{instance} got {:.0} %, expected about a third", share * 100.0));
            }
        }
        if tally.greeters.len() != 3 {
            complaints.push(format!("{} instances answered, expected 3", tally.greeters.len()));
        }
        self.report.close("balance", &tally, None, complaints)
    }

    async fn replace(&mut self) -> Result<(), Failure> {
        self.report.open(
            "replace every instance under load",
            &[
                "Three instances of version 2 start; then each of version 1 gets SIGTERM, and drains:",
                "it ends when every proxy has applied that, and has nothing in flight to it.",
            ],
        )?;
        let load = Load::start(&self.traffic());
        let started = Instant::now();
        tokio::time::sleep(AROUND).await;
        self.stack.start_services(&SampleUnit::replicas(SampleService::Greeter, "2", TTL)).await?;
        self.applied().await?;
        let mut complaints = Vec::new();
        for old in SampleUnit::replicas(SampleService::Greeter, "1", TTL) {
            let asked = Instant::now();
            self.stack.stop_service(&old.id).await;
            self.report.say(&format!("{} drained and ended in {}", old.id, text::short(asked.elapsed())))?;
        }
        self.report
            .say(&format!("all replaced in {}", text::short(started.elapsed().saturating_sub(AROUND))))?;
        tokio::time::sleep(AROUND).await;
        let mut tally = load.finish().await;
        let afterwards = self.ask_greeter(AFTERWARDS).await;
        let versions = afterwards.versions();
        self.report.say(&format!(
            "of {AFTERWARDS} requests afterwards, version 2 answered {}",
            versions.get("2").unwrap_or(&0)
        ))?;
        if versions.keys().any(|version| *version != "2") {
            complaints.push(format!("not only version 2 answers afterwards: {versions:?}"));
        }
        if tally.versions().len() != 2 {
            complaints
                .push(format!("both versions should have answered under load, found {:?}", tally.versions()));
        }
        tally.add(afterwards);
        let applied = self.commit_to_applied().await;
        self.report.close("replace", &tally, applied, complaints)
    }

    async fn kill(&mut self) -> Result<(), Failure> {
        const VICTIM: &str = "greeter-v2-1";
        self.report.open(
            "kill an instance under load",
            &[
                "SIGKILL: no goodbye. Proxies notice the first connection that fails, and try another instance;",
                "the lease runs out a little later.",
            ],
        )?;
        let mut complaints = Vec::new();
        let load = Load::start(&self.traffic());
        let mut steps =
            self.client.watch(v1::WatchRequest { service: "greeter".to_owned(), ..Default::default() });
        if !matches!(steps.next().await, Some(Ok(WatchEvent::Initial { .. }))) {
            complaints.push("the instances of greeter cannot be watched".to_owned());
        }
        tokio::time::sleep(AROUND).await;
        let killed = Instant::now();
        self.stack.kill_service(VICTIM).await;
        let left = async {
            while let Some(step) = steps.next().await {
                if let Ok(WatchEvent::Changed { removed, .. }) = step
                    && removed.iter().any(|key| key.id() == VICTIM)
                {
                    return;
                }
            }
            std::future::pending::<()>().await;
        };
        let limit = TTL + LEAVE_GRACE;
        match timeout(limit, left).await {
            Ok(()) => {
                self.applied().await?;
                let took = killed.elapsed();
                self.report.say(&format!(
                    "{VICTIM} left every table {} after it was killed; its lease is {}",
                    text::short(took),
                    text::short(TTL)
                ))?;
                if took > limit {
                    complaints
                        .push(format!("that took longer than its lease and {}", text::short(LEAVE_GRACE)));
                }
            }
            Err(_) => complaints
                .push(format!("{VICTIM} is still registered {} after it was killed", text::short(limit))),
        }
        tokio::time::sleep(AROUND).await;
        let tally = load.finish().await;
        let applied = self.commit_to_applied().await;
        self.report.close("kill", &tally, applied, complaints)
    }

    async fn outage(&mut self) -> Result<(), Failure> {
        self.report.open(
            "stop and start the control plane under load",
            &[
                "Proxies go on by the last table that they know. The control plane comes back with an empty memory,",
                "and the services register again by themselves.",
            ],
        )?;
        let mut complaints = Vec::new();
        let expected = self.names().await?;
        let load = Load::start(&self.traffic());
        tokio::time::sleep(AROUND).await;
        self.stack.stop_control_plane().await;
        let stopped = Instant::now();
        self.report.say("the control plane is gone; requests go on")?;
        tokio::time::sleep(OUTAGE).await;
        self.stack.restart_control_plane().await?;
        let back = Instant::now();
        self.report.say(&format!("it is back after {}", text::short(stopped.elapsed())))?;
        match timeout(CONVERGE_LIMIT, self.registered(&expected)).await {
            Ok(()) => {
                let count = text::count(expected.len(), "instance");
                self.report.say(&format!(
                    "{count} registered again by themselves in {}",
                    text::short(back.elapsed())
                ))?;
            }
            Err(_) => {
                let found = self.names().await.unwrap_or_default();
                complaints.push(format!("expected {expected:?} to register again, found {found:?}"));
            }
        }
        match timeout(CONVERGE_LIMIT, self.converged()).await {
            Ok(()) => self.report.say(&format!(
                "settled, and every proxy's table equal to the control plane's (by digest), after {}",
                text::short(back.elapsed())
            ))?,
            Err(_) => {
                complaints.push("the tables of the proxies are not equal to the control plane's".to_owned());
            }
        }
        tokio::time::sleep(AROUND).await;
        let tally = load.finish().await;
        let applied = self.commit_to_applied().await;
        self.report.close("outage", &tally, applied, complaints)
    }

    fn traffic(&self) -> Vec<SocketAddr> {
        self.stack.proxies().iter().map(|proxy| proxy.traffic).collect()
    }

    /// Asks greeter one request after the other, through all proxies in turn.
    async fn ask_greeter(&self, times: u32) -> Tally {
        let mut tally = Tally::default();
        let mut clients: Vec<load::Client> = self.traffic().into_iter().map(load::Client::new).collect();
        let turns = clients.len().max(1);
        for number in 0..times {
            let Some(client) = clients.get_mut(number as usize % turns) else { break };
            let asked = Instant::now();
            let answered = client.ask(Target::Greeter, &format!("one/{number}")).await;
            tally.count(Target::Greeter, answered, asked.elapsed());
        }
        tally
    }

    /// Waits until every live proxy serves by the newest revision.
    async fn applied(&self) -> Result<(), Failure> {
        self.client.wait_applied(v1::WaitAppliedRequest::default()).await?;
        Ok(())
    }

    async fn commit_to_applied(&self) -> Option<CommitToApplied> {
        CommitToApplied::of(&self.client.status().await.ok()?)
    }

    /// The names of all instances that take traffic.
    async fn names(&self) -> Result<Vec<String>, Failure> {
        let filter = v1::ListInstancesRequest { state: v1::InstanceState::Up.into(), ..Default::default() };
        let instances = self.client.instances(filter).await?.instances;
        Ok(instances.iter().map(|instance| text::instance(instance.key.as_ref())).collect())
    }

    async fn registered(&self, expected: &[String]) {
        while !self.names().await.is_ok_and(|found| found == expected) {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the control plane has settled, and all proxies serve by what it knows.
    async fn converged(&self) {
        let proxies = self.stack.proxies().len();
        loop {
            if let (Ok(status), Ok(listed)) = (self.client.status().await, self.client.proxies().await) {
                let head = status.head.unwrap_or_default();
                let equal = listed.proxies.iter().filter(|proxy| {
                    let applied = proxy.applied.as_ref();
                    proxy.connected && proxy.digest_ok && applied.is_some_and(|applied| *applied == head)
                });
                if status.settled && equal.count() == proxies {
                    return;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
