//! Where a guest range is: L1, L2, and how far a run of one kind goes.

use super::entry::{self, Cluster, CompressedCluster, L2Entry, SubKind};
use super::meta::{Meta, hex};
use crate::mapped::{Found, GuestOffset, HostOffset, Place};
use block::{Error, Result};

/// A run that grows subcluster by subcluster.
struct Run {
    kind: SubKind,
    /// Where its first byte is, for kinds that have a place.
    host: Option<HostOffset>,
    len: u64,
}

impl Meta {
    /// The run at `at`: at most `max` bytes, and no further than the L2 slice that describes its first cluster.
    ///
    /// # Errors
    /// An entry that contradicts the specification, or the file's.
    pub(super) fn find_run(&mut self, at: GuestOffset, max: u64) -> Result<Found> {
        let g = self.geometry;
        let Some(place) = self.l2_place(at)? else {
            let to_end = g.l2_coverage() - at.0 % g.l2_coverage();
            return Ok(Found { len: max.min(to_end), place: Place::Absent(None), pin: None });
        };
        let wanted = g.clusters(g.within(at.0) + max);
        let external = self.external;
        let mut run: Option<Run> = None;
        let mut problem = None;
        for (i, entry) in self.l2_entries(place, wanted)?.enumerate() {
            let start =
                if i == 0 { at } else { GuestOffset(g.round_down(at.0) + ((i as u64) << g.cluster_bits)) };
            match extend(&mut run, start, entry, g, external) {
                Ok(More::Yes) => {}
                Ok(More::No) => break,
                Err(text) => {
                    problem = Some((i, text));
                    break;
                }
            }
        }
        match (run, problem) {
            (Some(run), _) => Ok(self.found(at, &run, max)),
            (None, Some((_, text))) => {
                let (l2, index) = (entry::l2_table(self.l1_entry(at)), g.l2_index(at));
                let l2 = l2.map_or(0, |table| table.0);
                Err(self.corrupt(format!("{text} (L2 offset: {l2:#x}, L2 index: {})", hex(index))))
            }
            (None, None) => Err(Error::from_errno(nix::libc::EIO)),
        }
    }

    fn found(&self, at: GuestOffset, run: &Run, max: u64) -> Found {
        let len = run.len.min(max);
        let g = self.geometry;
        let place = match (run.kind, run.host) {
            (SubKind::Data, Some(host)) => Place::Stored(host),
            (SubKind::Zero, host) => Place::Zero(host),
            (_, host) => Place::Absent(host),
        };
        let pin = match place {
            Place::Stored(host) if !self.external => Some(self.pins.pin(host, len)),
            _ => None,
        };
        if run.kind == SubKind::Compressed {
            let left = g.cluster_size() - g.within(at.0);
            let CompressedCluster { at: host, len: bytes } = run.compressed();
            let pin = Some(self.pins.pin(host, bytes));
            return Found { len: left.min(max), place: Place::Compressed(host, bytes), pin };
        }
        Found { len, place, pin }
    }
}

impl Run {
    /// The place of a compressed run, whose length is that of its bytes.
    fn compressed(&self) -> CompressedCluster {
        CompressedCluster { at: self.host.unwrap_or(HostOffset(0)), len: self.len }
    }
}

/// Whether a run may go on.
enum More {
    Yes,
    No,
}

/// Adds what the cluster of `entry` has from `start` on to the run, as far as it is the same.
fn extend(
    run: &mut Option<Run>,
    start: GuestOffset,
    entry: L2Entry,
    g: super::geometry::Geometry,
    external: bool,
) -> Result<More, String> {
    let cluster = entry.cluster(g);
    if let Cluster::Compressed(place) = cluster {
        if external {
            return Err("Compressed cluster encountered in image with an external data file".to_owned());
        }
        if run.is_none() {
            *run = Some(Run { kind: SubKind::Compressed, host: Some(place.at), len: place.len });
        }
        return Ok(More::No);
    }
    let host = entry.host(g);
    if let Some(host) = host {
        check_place(host, start, g, external)?;
    }
    let mut at = start;
    for index in g.subcluster(start)..g.subclusters() {
        let kind = entry.kind(index, g);
        let here = host.map(|h| h.plus(g.within(at.0)));
        let len = g.subcluster_size() - at.0 % g.subcluster_size();
        match run {
            _ if kind == SubKind::Invalid => return Err("Invalid cluster entry found ".to_owned()),
            None => *run = Some(Run { kind, host: here, len }),
            Some(run) if run.kind == kind && continues(run, here) => run.len += len,
            Some(_) => return Ok(More::No),
        }
        at = at.plus(len);
    }
    Ok(More::Yes)
}

fn continues(run: &Run, here: Option<HostOffset>) -> bool {
    match (run.host, here) {
        (Some(host), Some(here)) => host.plus(run.len) == here,
        (None, None) => true,
        _ => false,
    }
}

fn check_place(
    host: HostOffset,
    start: GuestOffset,
    g: super::geometry::Geometry,
    external: bool,
) -> Result<(), String> {
    if g.within(host.0) != 0 {
        return Err(format!("Cluster allocation offset {host:#x} unaligned"));
    }
    if external && host.0 != g.round_down(start.0) {
        return Err(format!(
            "External data file host cluster offset {host:#x} does not match guest cluster offset: {:#x}",
            g.round_down(start.0)
        ));
    }
    Ok(())
}
