//! A relay for TCP whose bytes go on a given time after they came, in their order, however many are under way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are taken at once.
const CHUNK: usize = 256 << 10;
/// The last bit of a wait is spent awake: whoever sleeps is woken late.
const AWAKE: Duration = Duration::from_micros(50);

/// Bytes, and when they came; none: the end.
type Chunk = (Instant, Vec<u8>);

/// Relays whoever connects to `listener` to `to`, both ways, each `delay` later. Returns only where it cannot listen any more.
pub fn run(listener: &TcpListener, to: &str, delay: Duration) -> io::Result<()> {
    loop {
        let (near, _) = listener.accept()?;
        // Who cannot be connected is told by the end of the connection.
        if let Ok(far) = TcpStream::connect(to) {
            let _ = relay(near, far, delay);
        }
    }
}

/// Relays between two connections, in threads of their own.
fn relay(near: TcpStream, far: TcpStream, delay: Duration) -> io::Result<()> {
    for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        to.set_nodelay(true)?;
        let (sender, receiver) = channel();
        thread::Builder::new().spawn(move || take(from, &sender))?;
        thread::Builder::new().spawn(move || pass_on(&receiver, to, delay))?;
    }
    Ok(())
}

/// Takes bytes as they come.
fn take(mut from: TcpStream, sender: &Sender<Chunk>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        // A connection that breaks has ended.
        let count = from.read(&mut buffer).unwrap_or(0);
        let sent = sender.send((Instant::now(), buffer[..count].to_vec()));
        if count == 0 || sent.is_err() {
            break;
        }
    }
}

/// Passes bytes on when it is time.
fn pass_on(receiver: &Receiver<Chunk>, mut to: TcpStream, delay: Duration) {
    while let Ok((came, bytes)) = receiver.recv() {
        wait_until(came + delay);
        if bytes.is_empty() || to.write_all(&bytes).is_err() {
            break;
        }
    }
    // One that is not connected any more has ended.
    let _ = to.shutdown(Shutdown::Write);
}

fn wait_until(moment: Instant) {
    loop {
        let rest = moment.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return;
        }
        match rest.checked_sub(AWAKE) {
            Some(asleep) if !asleep.is_zero() => thread::sleep(asleep),
            _ => std::hint::spin_loop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order_and_not_before_its_time_and_ends_too() {
        let delay = Duration::from_millis(30);
        let far = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = far.local_addr().unwrap().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || run(&listener, &to, delay));
        let echo = thread::spawn(move || {
            let (mut stream, _) = far.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let begun = Instant::now();
        let mut near = TcpStream::connect(at).unwrap();
        // Far more than sockets hold: what is under way is not limited.
        let sent: Vec<u8> = (0..32_u32 << 18).flat_map(u32::to_le_bytes).collect();
        near.write_all(&sent).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        near.read_to_end(&mut back).unwrap();
        assert!(begun.elapsed() >= 2 * delay);
        assert!(back == sent, "the same bytes in the same order");
        echo.join().unwrap();
    }
}
