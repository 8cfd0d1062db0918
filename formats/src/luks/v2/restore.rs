//! Putting a saved LUKS2 header back, so that at any point today's slots or those of the backup open the image.
//!
//! Material of the backup whose place is taken today goes to a place that is free in both headers first. Metadata that
//! says so, the backup's with other places, is the moment of change; it is newer than either, so it counts until both
//! copies are as they were saved. Only then is what was there today overwritten.

use super::load::{Header, write_copy};
use super::metadata::{Id, Metadata};
use super::{binary::Which, document};
use crate::luks::area::Area;
use crate::luks::restore::Backup;
use block::Result;
use serde_json::json;
use std::ops::Range;

/// A key slot of the backup, and where its material can be written today.
struct Move {
    id: Id,
    /// Where it belongs.
    area: Range<u64>,
    /// Where it goes first, if its own place is taken.
    detour: Option<u64>,
}

/// What must be written for the backup's key slots to open the image.
pub(in crate::luks) struct Plan(Vec<Move>);

impl Plan {
    fn detours(&self) -> impl Iterator<Item = (&Move, u64)> {
        self.0.iter().filter_map(|slot| Some((slot, slot.detour?)))
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

impl Header {
    /// Whether the slots of `other` open the same payload, in a container of the same layout.
    pub(in crate::luks) fn has_volume_key_of(&self, other: &Header) -> bool {
        let key = |header: &Header| header.metadata.payload_digest().map(|(_, digest)| digest.proof.clone());
        let cipher =
            |header: &Header| header.segment().1.crypt.as_ref().map(|crypt| crypt.encryption.clone());
        let layout = |header: &Header| (header.copies_bytes(), header.metadata.keyslots_area());
        let (a, b) = (&self.metadata, &other.metadata);
        (key(self), cipher(self)) == (key(other), cipher(other))
            && layout(self) == layout(other)
            && a.requirements == b.requirements
    }

    /// How the material of this header, which is in `backup`, gets to where `now` is; `None`: there is no room.
    ///
    /// # Errors
    /// The layer's below.
    pub(in crate::luks) fn plan(
        &self,
        area: &Area,
        now: &Header,
        backup: &Backup<'_>,
    ) -> Result<Option<Plan>> {
        let areas = |header: &Header| -> Vec<_> {
            header.metadata.keyslots.values().map(|slot| slot.area.clone()).collect()
        };
        let today = areas(now);
        let mut taken = [areas(self), today.clone()].concat();
        let mut moves = Vec::new();
        for (id, slot) in &self.metadata.keyslots {
            let own = slot.area.clone();
            if backup.is_there(area, own.clone())? {
                continue;
            }
            let detour = match today.iter().any(|area| overlap(area, &own)) {
                false => None,
                true => {
                    let len = own.end - own.start;
                    let Some(at) = self.metadata.gap(taken.clone(), len) else { return Ok(None) };
                    taken.push(at..at + len);
                    Some(at)
                }
            };
            moves.push(Move { id: *id, area: own, detour });
        }
        Ok(Some(Plan(moves)))
    }

    /// Puts this header, which is in `backup`, in the place of `now`.
    ///
    /// # Errors
    /// The layer's below.
    pub(in crate::luks) fn put_back(
        &self,
        area: &Area,
        now: &Header,
        backup: &Backup<'_>,
        plan: &Plan,
    ) -> Result<()> {
        let mut now = now.clone();
        now.repair(area)?;
        for slot in &plan.0 {
            area.write(slot.detour.unwrap_or(slot.area.start), backup.part(slot.area.clone()))?;
        }
        area.flush()?;
        if plan.detours().next().is_some() {
            self.put_detours(area, &now, plan)?;
            for (slot, _) in plan.detours() {
                area.write(slot.area.start, backup.part(slot.area.clone()))?;
            }
            area.flush()?;
        }
        let (copy, end) = (self.copies_bytes() as u64 / 2, self.header_bytes());
        // One copy after the other; what is behind them last, as the detours are there.
        for range in [0..copy, copy..2 * copy, 2 * copy..end] {
            area.write(range.start, backup.part(range))?;
            area.flush()?;
        }
        Ok(())
    }

    /// Writes metadata that has the material of this header where the detours are.
    fn put_detours(&self, area: &Area, now: &Header, plan: &Plan) -> Result<()> {
        let mut document = self.document.clone();
        for (slot, at) in plan.detours() {
            let keyslots = document.object("keyslots")?;
            keyslots.object(&slot.id.to_string())?.object("area")?.set("offset", &json!(at.to_string()))?;
        }
        let mut binary = self.binary;
        binary.seqid = self.binary.seqid.max(now.binary.seqid).saturating_add(1);
        let text = document.to_text();
        Metadata::parse(&document::parse(&text)?, &binary)?;
        super::load::check_room(&binary, &text)?;
        write_copy(area, &binary, Which::Primary, &text)?;
        write_copy(area, &binary, Which::Secondary, &text)
    }
}
