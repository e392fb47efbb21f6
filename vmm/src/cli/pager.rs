//! `gmem pager serve`: lends memory of this host.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};

use gmem_core::bytes::Bytes;
use gmem_core::hnode::Hnode;
use gmem_core::hnode::file::{FileTier, FileTierError};
use gmem_core::hnode::hbm::Hbm;
use gmem_core::hnode::link::Link;
use gmem_core::page::PAGE_SIZE;
use gmem_core::pager::address::Address;
use gmem_core::pager::channel::tls::{BadCredentials, Credentials};
use gmem_core::pager::server::{Config, Server};

use super::size;
use super::tier::{self, TierArg, TierKind};
use crate::exit_code::ExitCode;
use crate::pager::listen::{ListenError, Listener};
use crate::pager::serve;
use crate::signals::TerminationSignals;

/// Requests of one client that may be under way at once.
const CREDITS: u16 = 8;

/// Memory between machines.
#[derive(Debug, Args)]
pub struct PagerArgs {
    #[command(subcommand)]
    command: PagerCommand,
}

#[derive(Debug, Subcommand)]
enum PagerCommand {
    /// Lend memory of this host to microVMs here and elsewhere, until SIGTERM or Ctrl-C
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Where clients connect: unix:PATH or tcp://ADDRESS:PORT (0 for any port). Several may be given, up to 8
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = Address::parse)]
    listen: Vec<Address>,

    /// What is lent, used in this order: ram:SIZE, hbm:SIZE (with latency_us=N, gbps=N), file:SIZE,path=PATH
    #[arg(long, value_name = "KIND:SIZE[,key=value...]", required = true, value_parser = lend)]
    lend: Vec<Lent>,

    /// The most that one client may have [default: all]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    quota: Option<u64>,

    /// How many clients at once
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,

    /// Seconds for which the pages of a client whose connection broke are kept
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    keep: u32,

    /// Seconds that clients have to take their pages back when the server is told to end
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    drain: u32,

    /// A file whose first 32 bytes clients have to know
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,

    /// Certificates of the authorities from which clients at tcp:// have theirs, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    tls_ca: Option<PathBuf>,

    /// This server's certificate
    #[arg(long, value_name = "FILE", requires = "tls_ca")]
    tls_cert: Option<PathBuf>,

    /// Its private key
    #[arg(long, value_name = "FILE", requires = "tls_ca")]
    tls_key: Option<PathBuf>,

    /// Serve tcp:// without TLS: for networks that nobody else is on
    #[arg(long, conflicts_with = "tls_ca")]
    no_tls: bool,
}

/// What is lent.
#[derive(Clone, Debug)]
enum Lent {
    Ram(u64),
    Hbm {
        bytes: u64,
        latency_us: u32,
        gbps: Option<f64>,
    },
    File {
        bytes: u64,
        path: PathBuf,
    },
}

fn lend(text: &str) -> Result<Lent, String> {
    if let Some(size) = text.strip_prefix("ram:") {
        return size::parse(size)
            .map(Lent::Ram)
            .map_err(|error| error.to_string());
    }
    let wrong =
        || format!("'{text}' cannot be lent; give ram:SIZE, hbm:SIZE or file:SIZE,path=PATH");
    match tier::parse(text) {
        Ok(TierArg::Tier(spec)) => match spec.kind {
            TierKind::Hbm { latency_us, gbps } => Ok(Lent::Hbm {
                bytes: spec.size,
                latency_us,
                gbps,
            }),
            TierKind::File { path } => Ok(Lent::File {
                bytes: spec.size,
                path,
            }),
            _ => Err(wrong()),
        },
        Ok(TierArg::Plain) | Err(tier::TierError::UnknownKind(_)) => Err(wrong()),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("--token {}: {source}; give a file of 32 bytes, as `head -c 32 /dev/urandom` makes them", path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("at most 8 --listen, {0} were given")]
    Listeners(usize),
    #[error(
        "--listen tcp://: clients are to be known by their certificates; give --tls-ca, --tls-cert and --tls-key, or --no-tls on a \
         network that nobody else is on"
    )]
    Unsecured,
    #[error("{0}")]
    Credentials(#[from] BadCredentials),
    #[error("--listen: {0}")]
    Listen(#[from] ListenError),
    #[error("--lend: {0}")]
    File(#[from] FileTierError),
    #[error("--lend: {0}")]
    Memory(io::Error),
    #[error("{0}")]
    System(#[from] io::Error),
}

impl ServeError {
    fn code(&self) -> ExitCode {
        match self {
            Self::Token { .. }
            | Self::Listeners(_)
            | Self::Unsecured
            | Self::Credentials(_)
            | Self::Listen(_)
            | Self::File(_) => ExitCode::Usage,
            Self::Memory(_) | Self::System(_) => ExitCode::HostLacks,
        }
    }
}

/// Does what the arguments ask for.
pub fn execute(args: PagerArgs) -> ExitCode {
    let PagerCommand::Serve(args) = args.command;
    match serve(&args) {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            eprintln!("gmem: {error}");
            error.code()
        }
    }
}

fn serve(args: &ServeArgs) -> Result<(), ServeError> {
    let signals = TerminationSignals::block()?;
    if args.listen.len() > 8 {
        return Err(ServeError::Listeners(args.listen.len()));
    }
    let token = match &args.token {
        Some(path) => token(path).map_err(|source| ServeError::Token {
            path: path.clone(),
            source,
        })?,
        None => [0; 32],
    };
    let secure = match (&args.tls_ca, &args.tls_cert, &args.tls_key) {
        (Some(ca), Some(cert), Some(key)) => {
            let [ca, cert, key] = [ca, cert, key].map(PathBuf::clone);
            Some(Credentials { ca, cert, key }.server()?)
        }
        _ => None,
    };
    let tcp = args
        .listen
        .iter()
        .any(|address| matches!(address, Address::Tcp(_)));
    if tcp && secure.is_none() && !args.no_tls {
        return Err(ServeError::Unsecured);
    }
    let hnodes = args
        .lend
        .iter()
        .zip(1..)
        .map(made)
        .collect::<Result<Vec<_>, _>>()?;
    let config = Config {
        quota_pages: args.quota.unwrap_or(u64::MAX) / PAGE_SIZE as u64,
        clients: args.clients.into(),
        credits: CREDITS,
        keep: Duration::from_secs(args.keep.into()),
        token,
        origin: None,
    };
    let server = Arc::new(Server::new(config, hnodes)?);
    let listen = |address| Listener::bind(address, secure.as_ref());
    let listeners = args
        .listen
        .iter()
        .map(listen)
        .collect::<Result<Vec<_>, _>>()?;
    let pages = server.summary().capacity_pages;
    for listener in &listeners {
        eprintln!(
            "gmem: lending {} at {}",
            Bytes(pages * PAGE_SIZE as u64),
            listener.address()
        );
    }
    let drain = Duration::from_secs(args.drain.into());
    let signal = serve::run(&server, args.clients.into(), &listeners, &signals, drain)?;
    let summary = server.summary();
    let counters = server.counters();
    let count =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    eprintln!(
        "gmem: {signal}: {} pages read, {} written, {} requests, {} refused; {} clients left, with {} pages",
        count(&counters.read_pages),
        count(&counters.written_pages),
        count(&counters.requests),
        count(&counters.refused),
        summary.clients,
        summary.stored_pages,
    );
    Ok(())
}

/// The first 32 bytes of a file.
pub(super) fn token(path: &Path) -> io::Result<[u8; 32]> {
    let mut token = [0; 32];
    std::fs::File::open(path)?.read_exact(&mut token)?;
    Ok(token)
}

fn made((lent, number): (&Lent, usize)) -> Result<Box<dyn Hnode>, ServeError> {
    let named = |kind: &str| format!("{kind}{number}");
    Ok(match lent {
        Lent::Ram(bytes) => Box::new(
            Hbm::new(named("ram"), *bytes, Link::new(0.0, 0.0)).map_err(ServeError::Memory)?,
        ),
        Lent::Hbm {
            bytes,
            latency_us,
            gbps,
        } => {
            let link = Link::new(f64::from(*latency_us), gbps.unwrap_or(0.0));
            Box::new(Hbm::new(named("hbm"), *bytes, link).map_err(ServeError::Memory)?)
        }
        Lent::File { bytes, path } => Box::new(FileTier::new(named("file"), *bytes, path)?),
    })
}
