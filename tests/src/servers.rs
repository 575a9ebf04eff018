//! Real servers for tests: started on free ports of loopback with a directory of their own, faulted, and ended.
//!
//! Each store's server has a file of its own, which knows how the program is called and when it is ready. Tests of
//! several crates use these by path.
//!
//! Deliberately absent: installing anything; `tests/setup.sh` does that.

#[path = "servers/consul.rs"] // tests of other crates use this file by path
pub mod consul;
#[path = "servers/etcd.rs"]
pub mod etcd;
#[path = "servers/redis.rs"]
pub mod redis;

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// How long a server may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Stops a child process, and waits until it has: a signal reaches one thread first, and until that one runs the others
/// go on and may answer. One that has ended already stands still.
pub fn stand_still(child: Pid) {
    if kill(child, Signal::SIGSTOP).is_ok() {
        let _ = waitid(Id::Pid(child), WaitPidFlag::WSTOPPED);
    }
}

/// A server that somebody else wrote. It is killed when this is dropped.
pub struct Server {
    program: PathBuf,
    arguments: Vec<String>,
    directory: TempDir,
    ready: Box<dyn Fn() -> bool + Send + Sync>,
    child: Child,
}

impl Server {
    /// Starts a program in a new directory, and waits until `ready` says that it is. `{dir}` in an argument stands
    /// for the directory, in which whatever it writes is kept over a restart.
    ///
    /// # Panics
    /// It ends, or is not ready in time; what it wrote is printed.
    pub fn start(
        program: &Path,
        arguments: &[String],
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let dir = directory.path().display().to_string();
        let arguments: Vec<String> =
            arguments.iter().map(|argument| argument.replace("{dir}", &dir)).collect();
        let child = spawn(program, &arguments, directory.path());
        let mut server =
            Self { program: program.to_owned(), arguments, directory, ready: Box::new(ready), child };
        server.wait();
        server
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Kills it at once, as a power failure would: nothing that it holds back is written.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    /// Ends it as an operator would.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let _ = self.child.wait();
    }

    /// Starts it again with what it has written, after [`Server::kill`] or [`Server::stop`].
    pub fn start_again(&mut self) {
        self.child = spawn(&self.program, &self.arguments, self.directory.path());
        self.wait();
    }

    /// Lets it stand still, connections open.
    pub fn freeze(&self) {
        stand_still(self.pid());
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"))
    }

    fn signal(&self, signal: Signal) {
        // One that has ended already needs no signal.
        let _ = kill(self.pid(), signal);
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        while !(self.ready)() {
            let ended = self.child.try_wait().expect("its state can be asked for");
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                panic!("{} is not ready, ended: {ended:?}\n{log}", self.program.display());
            }
            #[allow(clippy::disallowed_methods)] // nothing but the process itself says when it is ready
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        self.kill();
    }
}

/// A port of loopback to listen at, which refuses connections until somebody does. It stays taken, so that the system
/// gives it to nobody else; those who bind it with `SO_REUSEADDR`, as servers do, can have it, and have it again.
pub fn free_port() -> u16 {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let port = socket.local_addr().expect("an address").port();
    std::mem::forget(socket);
    port
}

/// Whether somebody listens on a port of loopback.
pub fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(1)).is_ok()
}

/// Where a program is: on the path, where Debian puts servers, or where our own set-up puts them.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin", "/usr/local/bin"].map(PathBuf::from));
    folders.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share/waypost/bin")));
    folders.into_iter().map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn spawn(program: &Path, arguments: &[String], directory: &Path) -> Child {
    let log = || -> io::Result<Stdio> {
        let file = File::options().create(true).append(true).open(directory.join("log"))?;
        Ok(file.into())
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command.stdout(log().expect("a log")).stderr(log().expect("a log"));
    command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}
