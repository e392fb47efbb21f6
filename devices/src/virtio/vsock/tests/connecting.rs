//! How connections are made, and refused.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use vmm_sys_util::tempdir::TempDir;

use super::*;
use crate::virtio::vsock::hub::MOST_CONNECTIONS;

#[test]
fn the_guest_reaches_a_port_of_the_host_and_bytes_go_both_ways() {
    let mut guest = Guest::new();
    let mut stream = guest.connected();
    guest.send(data(b"from the guest"), b"from the guest");
    assert_eq!(drain(&stream), b"from the guest");
    stream.write_all(b"from the host").unwrap();
    let (header, payload) = guest.wait().remove(0);
    assert_eq!(payload, b"from the host");
    let expected = Header {
        src_cid: HOST_CID,
        dst_cid: CID,
        src_port: 52,
        dst_port: 1000,
        len: 13,
        kind: STREAM,
        op: op::RW,
        flags: 0,
        buf_alloc: BUFFER,
        fwd_cnt: 14,
    };
    assert_eq!(header, expected);
}

#[test]
fn the_host_reaches_a_port_of_the_guest() {
    let mut guest = Guest::new();
    let mut stream = UnixStream::connect(&guest.uds).unwrap();
    stream.set_nonblocking(true).unwrap();
    // What follows the line is for the guest, and waits.
    stream.write_all(b"CONNECT 9000\nhello").unwrap();
    let (request, _) = guest.wait().remove(0);
    assert_eq!((request.op, request.dst_port), (op::REQUEST, 9000));
    assert_eq!(drain(&stream), b"");
    let answer = Header {
        src_port: 9000,
        dst_port: request.src_port,
        ..packet(op::RESPONSE)
    };
    guest.send(answer, &[]);
    let line = format!("OK {}\n", request.src_port);
    assert_eq!(drain(&stream), line.as_bytes());
    assert_eq!(guest.wait()[0].1, b"hello");
}

#[test]
fn a_port_to_which_nobody_listens_is_reset_on_either_side() {
    let mut guest = Guest::new();
    guest.send(packet(op::REQUEST), &[]);
    assert_eq!(guest.wait()[0].0.op, op::RST);
    // A socket file without a listener.
    drop(guest.listen(52));
    guest.send(packet(op::REQUEST), &[]);
    assert_eq!(guest.wait()[0].0.op, op::RST);

    let mut stream = UnixStream::connect(&guest.uds).unwrap();
    stream.write_all(b"CONNECT 1\n").unwrap();
    let (request, _) = guest.wait().remove(0);
    let answer = Header {
        src_port: 1,
        dst_port: request.src_port,
        ..packet(op::RST)
    };
    guest.send(answer, &[]);
    assert!(is_at_its_end(&stream), "no OK, and an end");
}

#[test]
fn a_listener_who_is_too_busy_is_not_waited_for() {
    let mut guest = Guest::new();
    let listener = guest.listen(52);
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
    for port in 0..10 {
        let request = Header {
            src_port: port,
            ..packet(op::REQUEST)
        };
        guest.send(request, &[]);
        if guest.wait()[0].0.op == op::RST {
            return;
        }
    }
    panic!("a backlog without end");
}

#[test]
fn a_host_that_gives_up_before_the_guest_has_answered_is_taken_back() {
    let mut guest = Guest::new();
    let mut stream = UnixStream::connect(&guest.uds).unwrap();
    stream.write_all(b"CONNECT 1\n").unwrap();
    let (request, _) = guest.wait().remove(0);
    drop(stream);
    let reset = guest.wait_for(op::RST);
    assert_eq!((reset.src_port, reset.dst_port), (request.src_port, 1));
}

#[test]
fn a_payload_in_many_buffers_arrives_whole() {
    let mut guest = Guest::new();
    let stream = guest.connected();
    let header = data(&[0; 30]).encode().unwrap();
    let (one, two) = header.split_at(20);
    let parts = [
        one.to_vec(),
        two.to_vec(),
        vec![1; 10],
        vec![2; 10],
        vec![3; 10],
    ];
    guest.bench.send(SEND, &parts.map(Part::Out));
    guest.bench.notify(SEND).unwrap();
    assert_eq!(drain(&stream), [[1; 10], [2; 10], [3; 10]].concat());
}

#[test]
fn connections_have_a_limit_for_both_sides() {
    let mut guest = Guest::new();
    let callers: Vec<UnixStream> = (0..MOST_CONNECTIONS)
        .map(|_| {
            let stream = UnixStream::connect(&guest.uds).unwrap();
            guest.serve();
            stream
        })
        .collect();
    let more = UnixStream::connect(&guest.uds).unwrap();
    guest.serve();
    assert!(is_at_its_end(&more));
    let _listener = guest.listen(52);
    guest.send(packet(op::REQUEST), &[]);
    assert_eq!(guest.wait()[0].0.op, op::RST);
    drop(callers);
    for _ in 0..MOST_CONNECTIONS {
        guest.serve();
    }
    guest.send(packet(op::REQUEST), &[]);
    assert_eq!(guest.wait()[0].0.op, op::RESPONSE);
}

#[test]
fn the_socket_goes_with_the_device_and_one_that_exists_stays() {
    let folder = TempDir::new().unwrap();
    let uds = folder.as_path().join("v.sock");
    let first = Vsock::new(CID, &uds).unwrap();
    assert!(matches!(Vsock::new(CID, &uds), Err(VsockError::Exists(path)) if path == uds));
    assert!(uds.exists());
    drop(first);
    assert!(!uds.exists());
    for cid in [0, 1, 2, u64::from(u32::MAX), u64::MAX] {
        assert!(matches!(Vsock::new(cid, &uds), Err(VsockError::Cid(_))));
    }
    let long = folder.as_path().join("x".repeat(100));
    assert!(matches!(
        Vsock::new(CID, &long),
        Err(VsockError::LongPath { .. })
    ));
}
