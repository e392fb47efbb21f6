//! Over TCP with TLS 1.3, where both sides show a certificate of an authority that the other one knows.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};

use super::socket::Socket;
use super::stream::{Stream, StreamChannel};
use super::tcp;

/// How long the other side may take for its part of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Files in PEM that say who this side is, and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Certificates of the authorities that the other side may have its certificate from.
    pub ca: PathBuf,
    /// This side's certificate, with those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Credentials that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}; give a file in PEM with {expected}", path.display())]
pub struct BadCredentials {
    path: PathBuf,
    expected: &'static str,
    message: String,
}

/// What a client needs for its connections.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

/// What a server needs for its connections.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl Credentials {
    /// For clients.
    pub fn client(&self) -> Result<ClientTls, BadCredentials> {
        let (chain, key) = self.identity()?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| self.bad_key(error))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)
            .map_err(|error| self.bad_key(error))?;
        Ok(ClientTls(Arc::new(config)))
    }

    /// For servers.
    pub fn server(&self) -> Result<ServerTls, BadCredentials> {
        let (chain, key) = self.identity()?;
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.roots()?),
            Arc::clone(&provider),
        )
        .build()
        .map_err(|error| bad(&self.ca, "authorities' certificates", error))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| self.bad_key(error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| self.bad_key(error))?;
        Ok(ServerTls(Arc::new(config)))
    }

    fn bad_key(&self, error: rustls::Error) -> BadCredentials {
        bad(&self.key, "the certificate's private key", error)
    }

    fn roots(&self) -> Result<RootCertStore, BadCredentials> {
        let expected = "authorities' certificates";
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca, expected)? {
            roots
                .add(certificate)
                .map_err(|error| bad(&self.ca, expected, error))?;
        }
        Ok(roots)
    }

    fn identity(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BadCredentials> {
        let chain = certificates(&self.cert, "this side's certificate")?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| bad(&self.key, "the certificate's private key", error))?;
        Ok((chain, key))
    }
}

fn bad(path: &Path, expected: &'static str, error: impl std::fmt::Display) -> BadCredentials {
    BadCredentials {
        path: path.into(),
        expected,
        message: error.to_string(),
    }
}

fn certificates(
    path: &Path,
    expected: &'static str,
) -> Result<Vec<CertificateDer<'static>>, BadCredentials> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| bad(path, expected, error))?;
    let all: Vec<_> = read
        .collect::<Result<_, _>>()
        .map_err(|error| bad(path, expected, error))?;
    match all.is_empty() {
        true => Err(bad(path, expected, "no certificate in it")),
        false => Ok(all),
    }
}

/// Connects to `address` (`host:port`), whose certificate is to be in the host's name.
pub fn connect(
    address: &str,
    patience: Duration,
    tls: &ClientTls,
) -> io::Result<StreamChannel<impl Stream + use<>>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::clone(&tls.0), name).map_err(io::Error::other)?;
    secured(tcp::dial(address, patience)?, connection.into())
}

/// The server's side of a connection; waits for the client's part of the handshake.
pub fn accept(
    stream: TcpStream,
    tls: &ServerTls,
) -> io::Result<StreamChannel<impl Stream + use<>>> {
    let connection = ServerConnection::new(Arc::clone(&tls.0)).map_err(io::Error::other)?;
    secured(stream, connection.into())
}

fn secured(mut stream: TcpStream, mut connection: Connection) -> io::Result<StreamChannel<Tls>> {
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.set_write_timeout(Some(HANDSHAKE))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    connection.set_buffer_limit(None);
    let tls = Tls {
        socket: tcp::prepared(stream)?,
        connection: Mutex::new(connection),
        raw: Mutex::default(),
        out: Mutex::default(),
    };
    Ok(StreamChannel::new(tls, None))
}

/// A socket with TLS. Whoever writes waits for the other side without keeping readers from reading.
struct Tls {
    socket: Socket,
    connection: Mutex<Connection>,
    /// Read from the socket, and not decrypted yet.
    raw: Mutex<Vec<u8>>,
    /// Encrypted, to be written.
    out: Mutex<Vec<u8>>,
}

/// A record of TLS.
const RECORD: usize = 16 << 10;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream for Tls {
    fn read(&self, into: &mut [u8], until: Option<Instant>) -> io::Result<Option<usize>> {
        let mut raw = lock(&self.raw);
        loop {
            {
                let mut connection = lock(&self.connection);
                match connection.reader().read(into) {
                    Ok(count) => return Ok(Some(count)),
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Ok(Some(0));
                    }
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    Err(_) => {}
                }
                if !raw.is_empty() {
                    let taken = connection.read_tls(&mut &raw[..])?;
                    raw.drain(..taken);
                    let processed = connection.process_new_packets();
                    processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    continue;
                }
            }
            raw.resize(RECORD, 0);
            let read = self.socket.read(&mut raw, until);
            let count = *read.as_ref().unwrap_or(&None);
            raw.truncate(count.unwrap_or(0));
            match read? {
                None => return Ok(None),
                Some(0) => return Ok(Some(0)),
                Some(_) => {}
            }
        }
    }

    fn write(&self, parts: [&[u8]; 3]) -> io::Result<()> {
        let mut out = lock(&self.out);
        {
            let mut connection = lock(&self.connection);
            for part in parts {
                connection.writer().write_all(part)?;
            }
            while connection.wants_write() {
                connection.write_tls(&mut *out)?;
            }
        }
        let written = self.socket.write([&out, &[], &[]]);
        out.clear();
        written
    }

    fn shut(&self) {
        self.socket.shut();
    }
}
