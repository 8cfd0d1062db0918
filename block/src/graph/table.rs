//! The driver table: one static row per driver, from which opening, creating and all help texts are generated.

use super::{CreateOption, CreateRow, OpenCtx};
use crate::{Child, Driver, Options, Result};

/// Where a driver stands in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// At the bottom: reaches bytes outside the process.
    Protocol,
    /// In between: passes requests on.
    Filter,
    /// On top of a protocol or another format: gives bytes a layout.
    Format,
}

/// The beginning of a file, for probing.
#[derive(Debug)]
pub struct Probe<'a> {
    /// Up to 2048 bytes from offset 0.
    pub head: &'a [u8],
}

/// One driver.
pub struct DriverRow {
    /// Its name, as `driver=` takes it.
    pub name: &'static str,
    /// Where it stands.
    pub kind: DriverKind,
    /// The prefixes (without colon) of file names that mean this protocol.
    pub prefixes: &'static [&'static str],
    /// Turns a file name of this protocol into options.
    pub parse_filename: fn(&str) -> Result<Options>,
    /// The file name that says all about a node of this protocol, given its options and children; where none does, the
    /// node is called `json:{…}`.
    pub filename: fn(&Options, &[Child]) -> Option<String>,
    /// How surely a file is in this format: 0 (not) to 100.
    pub probe: fn(&Probe<'_>) -> u8,
    /// The roles of its children that options may describe.
    pub children: &'static [&'static str],
    /// Options that a file name alone does not express: with one of these set, a node is called `json:{…}`.
    pub strong_options: &'static [&'static str],
    /// Opens it.
    pub open: fn(&mut OpenCtx<'_>) -> Result<Box<dyn Driver>>,
    /// Whether it stores compressed clusters.
    pub compresses: bool,
    /// How it is created, for drivers that can.
    pub create: Option<&'static CreateRow>,
    /// The options that can be changed in an image that exists; none in drivers without [`Driver::amend`].
    pub amend: &'static [CreateOption],
}

impl DriverRow {
    /// A row to start from: nothing set but the name, kind and open function.
    pub const fn new(
        name: &'static str,
        kind: DriverKind,
        open: fn(&mut OpenCtx<'_>) -> Result<Box<dyn Driver>>,
    ) -> Self {
        DriverRow {
            name,
            kind,
            prefixes: &[],
            parse_filename: |_| Ok(Options::new()),
            filename: |options, _| options.get_str("filename").map(str::to_owned),
            probe: |_| 0,
            children: &[],
            strong_options: &[],
            open,
            compresses: false,
            create: None,
            amend: &[],
        }
    }
}

impl std::fmt::Debug for DriverRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DriverRow({})", self.name)
    }
}

/// The drivers of a program.
#[derive(Debug, Clone, Copy)]
pub struct DriverTable(pub &'static [&'static DriverRow]);

impl DriverTable {
    /// The driver of that name.
    pub fn find(self, name: &str) -> Option<&'static DriverRow> {
        self.0.iter().copied().find(|row| row.name == name)
    }

    /// The protocol that file names with this prefix mean.
    pub fn protocol(self, prefix: &str) -> Option<&'static DriverRow> {
        self.0.iter().copied().find(|row| row.prefixes.contains(&prefix))
    }

    /// The format a file is most surely in; of equals, the first. `None` without any that claims it.
    pub fn probe(self, probe: &Probe<'_>) -> Option<&'static DriverRow> {
        let scored = self.0.iter().copied().map(|row| ((row.probe)(probe), row));
        scored
            .filter(|(score, _)| *score > 0)
            .reduce(|a, b| if b.0 > a.0 { b } else { a })
            .map(|(_, row)| row)
    }

    /// All rows, in the order of their names.
    pub fn sorted(self) -> Vec<&'static DriverRow> {
        let mut rows = self.0.to_vec();
        rows.sort_by_key(|row| row.name);
        rows
    }
}
