//! The layer over a session that only frames and masks: what is tested is the moving of records, not their secrecy.

use super::super::{Socket, read_exact, write_all};
use super::*;
use crate::{IoVec, IoVecMut};
use std::time::Duration;

/// Records are a length (16 bits), a kind and masked bytes. Both ends must have said hello.
#[derive(Debug, Default)]
pub(crate) struct Masked {
    out: Vec<u8>,
    clear: Vec<u8>,
    greeted: bool,
    ended: bool,
    name: Option<&'static str>,
}

/// Credentials that start [`Masked`] sessions with a peer of this name.
#[derive(Debug)]
pub(crate) struct Masks(pub(crate) Endpoint, pub(crate) Option<&'static str>);

impl TlsCredentials for Masks {
    fn endpoint(&self) -> Endpoint {
        self.0
    }

    fn start(&self, _hostname: Option<&str>) -> Result<Box<dyn TlsSession>> {
        let mut session = Masked { name: self.1, ..Masked::default() };
        session.record(b'h', &[]);
        Ok(Box::new(session))
    }

    fn check_authorizable(&self) -> Result<()> {
        Ok(())
    }
}

impl Masked {
    fn record(&mut self, kind: u8, bytes: &[u8]) {
        self.out.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        self.out.push(kind);
        self.out.extend(bytes.iter().map(|b| b ^ 0x55));
    }
}

impl TlsSession for Masked {
    fn receive(&mut self, records: &mut [u8], to: &mut [IoSliceMut<'_>]) -> Result<Received> {
        let mut used = 0;
        if self.clear.is_empty()
            && let [a, b, kind, rest @ ..] = records
            && let Some(body) = rest.get(..usize::from(u16::from_be_bytes([*a, *b])))
        {
            used = 3 + body.len();
            match kind {
                b'h' => self.greeted = true,
                b'd' => self.clear.extend(body.iter().map(|b| b ^ 0x55)),
                b'e' => self.ended = true,
                _ => return Err(Error::invalid("not a record")),
            }
        }
        let mut clear = 0;
        for part in to {
            let n = part.len().min(self.clear.len());
            part[..n].copy_from_slice(&self.clear[..n]);
            self.clear.drain(..n);
            clear += n;
        }
        Ok(Received { used, clear })
    }

    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize> {
        let bytes: Vec<u8> = from.iter().flat_map(|part| part.to_vec()).take(1000).collect();
        self.record(b'd', &bytes);
        Ok(bytes.len())
    }

    fn take_records(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.out);
    }

    fn is_handshaking(&self) -> bool {
        !self.greeted
    }

    fn has_clear(&self) -> bool {
        !self.clear.is_empty()
    }

    fn is_ended(&self) -> bool {
        self.ended && self.clear.is_empty()
    }

    fn end(&mut self) {
        self.record(b'e', &[]);
    }

    fn peer(&self) -> Option<String> {
        self.name.map(str::to_owned)
    }

    fn peer_kind(&self) -> &'static str {
        "x509"
    }
}

/// Two layers over a pair of sockets, and the sockets.
fn pair() -> ([TlsTransport; 2], [Arc<Socket>; 2]) {
    let (a, b) = Socket::pair().unwrap();
    let (a, b) = (Arc::new(a), Arc::new(b));
    let over = |socket: &Arc<Socket>| {
        let session = Masks(Endpoint::Client, None).start(None).unwrap();
        TlsTransport::new(Arc::clone(socket) as _, session)
    };
    ([over(&a), over(&b)], [a, b])
}

#[test]
fn a_handshake_waits_for_neither_side_and_ends_when_both_are_greeted() {
    let ([a, b], [low_a, low_b]) = pair();
    low_a.set_nonblocking(true).unwrap();
    low_b.set_nonblocking(true).unwrap();
    assert_eq!(a.handshake().unwrap(), Handshake::WantsRead);
    assert_eq!(b.handshake().unwrap(), Handshake::Done);
    assert_eq!(a.handshake().unwrap(), Handshake::Done);
}

#[test]
fn bytes_arrive_in_order_both_ways_at_once_whatever_the_sizes() {
    let ([a, b], _sockets) = pair();
    let bytes: Vec<u8> = (0..1u32 << 18).map(|i| ((i * 31) >> 3) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| a.handshake().unwrap());
        b.handshake().unwrap();
    });
    std::thread::scope(|scope| {
        for (from, to) in [(&a, &b), (&b, &a)] {
            let bytes = &bytes;
            scope.spawn(move || {
                write_all(from, &IoVec::from(&bytes[..]), || Ok(())).unwrap();
            });
            scope.spawn(move || {
                let mut got = vec![0; bytes.len()];
                let (mut done, mut size) = (0, 1);
                while done < got.len() {
                    let end = got.len().min(done + size);
                    let mut part = IoVecMut::from(&mut got[done..end]);
                    read_exact(to, &mut part, || Ok(())).unwrap();
                    (done, size) = (end, size * 3 % 5003 + 1);
                }
                assert!(&got == bytes);
            });
        }
    });
}

#[test]
fn a_write_that_stalls_goes_on_where_it_was() {
    let ([a, b], [low_a, _]) = pair();
    std::thread::scope(|scope| {
        scope.spawn(|| a.handshake().unwrap());
        b.handshake().unwrap();
    });
    low_a.set_time_limit(Duration::from_millis(1)).unwrap();
    let bytes: Vec<u8> = (0..1u32 << 20).map(|i| (i >> 2) as u8).collect();
    let mut stalls = 0;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            let mut got = vec![0; bytes.len()];
            read_exact(&b, &mut IoVecMut::from(&mut got[..]), || Ok(())).unwrap();
            got
        });
        write_all(&a, &IoVec::from(&bytes[..]), || {
            stalls += 1;
            Ok(())
        })
        .unwrap();
        assert!(reader.join().unwrap() == bytes);
    });
    assert!(stalls > 0);
}

#[test]
fn the_end_is_the_peers_word_or_the_end_of_the_stream() {
    for says in [true, false] {
        let ([a, b], [low_a, _]) = pair();
        if says {
            a.end();
        } else {
            low_a.shutdown(Shutdown::Both);
        }
        let mut byte = [0];
        assert_eq!(b.read(&mut [IoSliceMut::new(&mut byte)]).unwrap(), 0);
    }
}

#[test]
fn a_peer_that_does_not_speak_tls_fails_the_handshake() {
    let ([a, _], [_, low_b]) = pair();
    write_all(&*low_b, &IoVec::from(&[0, 0, 0, 0][..]), || Ok(())).unwrap();
    assert_eq!(a.handshake().unwrap_err().to_string(), "not a record");
    let ([a, _], [_, low_b]) = pair();
    low_b.shutdown(Shutdown::Both);
    assert!(a.handshake().unwrap_err().to_string().starts_with("TLS handshake failed"));
}
