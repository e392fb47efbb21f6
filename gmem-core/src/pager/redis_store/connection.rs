//! A connection to a server, or to a cluster of them.

use std::time::Duration;

use pager_wire::{PAGE_LEN, Page};
use redis::cluster::{ClusterClient, ClusterClientBuilder, ClusterConnection, cluster_pipe};
use redis::{Client, Connection, RedisResult, Value};

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(5);

/// Bytes of a value: a page's seal, and its bytes.
const VALUE: usize = 16 + PAGE_LEN;

/// Who is connected to.
#[derive(Clone)]
pub(super) enum Servers {
    One(Client),
    Cluster(Box<ClusterClient>),
}

/// A connection.
pub(super) enum Link {
    One(Box<Connection>),
    Cluster(Box<ClusterConnection>),
}

/// Commands to be sent together.
enum Pipe {
    One(redis::Pipeline),
    Cluster(redis::cluster::ClusterPipeline),
}

impl Servers {
    /// The servers at `places` (`host:port`): a cluster, if the first that answers is one's.
    pub(super) fn find(places: &[String]) -> RedisResult<Self> {
        let mut refused = None;
        for place in places {
            let found = Client::open(format!("redis://{place}"))
                .and_then(|client| Ok((client.get_connection_with_timeout(CONNECTING)?, client)))
                .and_then(|(mut connection, client)| {
                    let info: String = redis::cmd("INFO").arg("cluster").query(&mut connection)?;
                    Ok((info.contains("cluster_enabled:1"), client))
                });
            match found {
                Ok((false, client)) => return Ok(Self::One(client)),
                Ok((true, _)) => {
                    let urls = places.iter().map(|place| format!("redis://{place}"));
                    let builder = ClusterClientBuilder::new(urls)
                        .connection_timeout(CONNECTING)
                        .retries(3);
                    return Ok(Self::Cluster(Box::new(builder.build()?)));
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused
            .unwrap_or_else(|| (redis::ErrorKind::InvalidClientConfig, "no place is given").into()))
    }

    /// A connection whose answers come within `deadline`.
    pub(super) fn connect(&self, deadline: Duration) -> RedisResult<Link> {
        Ok(match self {
            Self::One(client) => {
                let connection = client.get_connection_with_timeout(CONNECTING)?;
                connection.set_read_timeout(Some(deadline))?;
                connection.set_write_timeout(Some(deadline))?;
                Link::One(Box::new(connection))
            }
            Self::Cluster(client) => {
                let connection = client.get_connection()?;
                connection.set_read_timeout(Some(deadline))?;
                connection.set_write_timeout(Some(deadline))?;
                Link::Cluster(Box::new(connection))
            }
        })
    }
}

impl Pipe {
    fn add(&mut self, name: &str, key: &[u8], value: Option<&[u8]>) {
        match self {
            Self::One(pipe) => {
                pipe.cmd(name).arg(key);
                value.map(|value| pipe.arg(value));
            }
            Self::Cluster(pipe) => {
                pipe.cmd(name).arg(key);
                value.map(|value| pipe.arg(value));
            }
        }
    }
}

impl Link {
    fn pipe(&self) -> Pipe {
        match self {
            Self::One(_) => Pipe::One(redis::pipe()),
            Self::Cluster(_) => Pipe::Cluster(cluster_pipe()),
        }
    }

    fn run(&mut self, pipe: &Pipe) -> RedisResult<Vec<Value>> {
        match (self, pipe) {
            (Self::One(link), Pipe::One(pipe)) => pipe.query(link),
            (Self::Cluster(link), Pipe::Cluster(pipe)) => pipe.query(link),
            _ => Err((redis::ErrorKind::Client, "a pipe of another link").into()),
        }
    }

    /// Writes pages.
    pub(super) fn write(&mut self, prefix: &str, pages: &[Page], bytes: &[u8]) -> RedisResult<()> {
        let mut pipe = self.pipe();
        let mut value = Vec::with_capacity(VALUE);
        for (page, bytes) in pages.iter().zip(bytes.chunks_exact(PAGE_LEN)) {
            value.clear();
            value.extend_from_slice(&page.seal);
            value.extend_from_slice(bytes);
            pipe.add("SET", &key(prefix, page), Some(&value));
        }
        self.run(&pipe).map(|_| ())
    }

    /// Reads pages; one that is not there has version 0.
    pub(super) fn read(
        &mut self,
        prefix: &str,
        pages: &[Page],
    ) -> RedisResult<(Vec<Page>, Vec<u8>)> {
        let mut pipe = self.pipe();
        pages
            .iter()
            .for_each(|page| pipe.add("GET", &key(prefix, page), None));
        let values = self.run(&pipe)?;
        let mut found = Vec::with_capacity(pages.len());
        let mut bytes = Vec::with_capacity(pages.len() * PAGE_LEN);
        for (page, value) in pages.iter().zip(&values) {
            match value {
                Value::BulkString(value) if value.len() == VALUE => {
                    let (seal, rest) = value.split_at(16);
                    let seal = seal.try_into().unwrap_or_default();
                    found.push(Page { seal, ..*page });
                    bytes.extend_from_slice(rest);
                }
                // Nothing, or nothing of ours.
                _ => {
                    found.push(Page {
                        number: page.number,
                        ..Page::default()
                    });
                    bytes.resize(bytes.len() + PAGE_LEN, 0);
                }
            }
        }
        Ok((found, bytes))
    }

    /// Forgets pages.
    pub(super) fn free(&mut self, prefix: &str, pages: &[Page]) -> RedisResult<()> {
        let mut pipe = self.pipe();
        pages
            .iter()
            .for_each(|page| pipe.add("UNLINK", &key(prefix, page), None));
        self.run(&pipe).map(|_| ())
    }

    /// Sets a mark, or says whether it is there.
    pub(super) fn mark(&mut self, prefix: &str, set: bool) -> RedisResult<bool> {
        let key = format!("{prefix}:life").into_bytes();
        let mut pipe = self.pipe();
        match set {
            true => pipe.add("SET", &key, Some(b"1")),
            false => pipe.add("GET", &key, None),
        }
        let values = self.run(&pipe)?;
        Ok(set || values.iter().any(|value| *value != Value::Nil))
    }

    /// Forgets the mark.
    pub(super) fn unmark(&mut self, prefix: &str) -> RedisResult<()> {
        let mut pipe = self.pipe();
        pipe.add("UNLINK", format!("{prefix}:life").as_bytes(), None);
        self.run(&pipe).map(|_| ())
    }
}

/// A version of a page has a key of its own: what arrives late cannot take the place of what is newer.
fn key(prefix: &str, page: &Page) -> Vec<u8> {
    format!("{prefix}:{:x}:{:x}", page.number.get(), page.version.get()).into_bytes()
}
