//! Opening: resolve the name, open the protocol, probe, open the format.

use super::name::{has_protocol, json_name};
use super::reopen::Opened;
use super::{DriverKind, DriverRow, Env, OpenCtx, OpenFlags, Perm, Perms, Probe};
use crate::node::{DetectZeroes, NodeFlags, NodeName, State};
use crate::trace::{self, Operation};
use crate::{Child, Context, Error, Image, IoVecMut, Kind, Node, Options, Result};
use secret::objects::check_id;
use secret::options::OWN;
use secret::options::keyval::{self, Bare};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How deep a graph may be: enough for any backing chain made by hand, short of exhausting the stack.
const MAX_DEPTH: u32 = 1000;

/// How many bytes formats get to see when probing.
const PROBE_BYTES: usize = 2048;

/// Splits an option list.
type Pairs = fn(&str, Bare<'_>) -> Result<Vec<(String, String)>>;

/// What the user named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file name: plain, `json:{…}` or with a protocol prefix.
    Name(String),
    /// An option string, `key=value,…`.
    Options(String),
}

impl Source {
    /// The text as the user typed it, for messages.
    pub fn text(&self) -> &str {
        match self {
            Source::Name(text) | Source::Options(text) => text,
        }
    }

    /// The files it names, as far as that can be told without opening it.
    pub fn file_names(&self) -> Vec<String> {
        let resolved = self.parse(keyval::pairs).and_then(|(name, mut options)| {
            let name = expand_json(name, &mut options)?;
            Ok((name, options))
        });
        let Ok((name, options)) = resolved else { return Vec::new() };
        let plain = name.map(|name| match has_protocol(&name) {
            Some(prefix @ ("file" | "host_device")) => name[prefix.len() + 1..].to_owned(),
            _ => name,
        });
        let mut names = Vec::from_iter(plain);
        collect_filenames(&Value::Object(options.into_map()), &mut names);
        names
    }

    /// The file name and the options that the text stands for.
    ///
    /// # Errors
    /// An option string that is none.
    pub fn resolve(&self) -> Result<(Option<String>, Options)> {
        self.parse(crate::tool::pairs)
    }

    fn parse(&self, pairs: Pairs) -> Result<(Option<String>, Options)> {
        match self {
            Source::Name(name) => Ok((Some(name.clone()), Options::new())),
            Source::Options(text) => {
                let pairs = pairs(text, Bare::Switch("file"))?;
                Ok((None, Options::from_pairs(pairs)?))
            }
        }
    }
}

fn collect_filenames(value: &Value, names: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::String(name) if key == "filename" => names.push(name.clone()),
            _ => collect_filenames(value, names),
        }
    }
}

/// How a child is to be found.
#[derive(Debug)]
pub(super) enum ChildSource {
    /// Described by options, a file name, or both.
    Describe { filename: Option<String>, options: Options },
    /// Opened already, for probing.
    Opened(Arc<Node>),
    /// Named as a node that exists already.
    Reference(String),
    /// Described as missing, with a JSON `null`.
    Nothing,
    /// Named as a node, and described too.
    Both,
}

impl ChildSource {
    /// The first of the options that describe it as a child in `role`.
    fn first_option(&self, role: &str) -> String {
        match self {
            ChildSource::Describe { filename: None, options } => {
                first_path(role, &Value::Object(options.clone().into_map()))
            }
            ChildSource::Describe { .. } => format!("{role}.filename"),
            _ => role.to_owned(),
        }
    }
}

/// The path to the first option of a tree that is found at `path`.
fn first_path(path: &str, tree: &Value) -> String {
    match tree.as_object().and_then(|members| members.iter().next()) {
        Some((key, value)) => first_path(&format!("{path}.{key}"), value),
        None => path.to_owned(),
    }
}

/// Opens an image. `format` forces the driver.
///
/// # Errors
/// `Could not open 'TEXT': …` with the cause.
pub fn open(env: Env<'_>, source: &Source, format: Option<&str>, flags: OpenFlags) -> Result<Image> {
    open_unnamed(env, source, format, flags).context(|| format!("Could not open '{}'", source.text()))
}

/// Like [`open`], for callers whose message names the image already.
///
/// # Errors
/// The cause alone.
pub fn open_unnamed(env: Env<'_>, source: &Source, format: Option<&str>, flags: OpenFlags) -> Result<Image> {
    let (filename, mut options) = source.resolve()?;
    if let Some(format) = format {
        options.set("driver", format)?;
    }
    open_tree(env, filename.as_deref(), options, flags)
}

/// Opens an image from a file name, options, or both, as [`Source::resolve`] gives them.
///
/// # Errors
/// The cause alone.
pub fn open_tree(env: Env<'_>, filename: Option<&str>, options: Options, flags: OpenFlags) -> Result<Image> {
    let node = open_node(env, filename, options, flags)?;
    Ok(Image::new(node, flags.cache.write))
}

/// Opens a graph from a file name, options, or both, and gives its top node.
///
/// # Errors
/// What is wrong, without naming the image: the caller knows what the user typed.
pub fn open_node(
    env: Env<'_>,
    filename: Option<&str>,
    options: Options,
    flags: OpenFlags,
) -> Result<Arc<Node>> {
    let opener = Opener { env, flags, perms: flags.perms(), depth: 0, guessed: false };
    let top = opener.open_permitted(filename.map(str::to_owned), options, Layer::Any)?;
    check_unique(&top, &mut HashSet::new())?;
    Ok(top)
}

/// Refuses a graph in which two nodes have the same name.
fn check_unique(node: &Arc<Node>, names: &mut HashSet<String>) -> Result<()> {
    let name = &node.name().node;
    if !names.insert(name.clone()) {
        return Err(Error::invalid(format!("Duplicate nodes with node-name='{name}'")));
    }
    node.children().iter().try_for_each(|child| check_unique(child.node(), names))
}

/// The longest name of a node, in bytes.
const MAX_NODE_NAME: usize = 31;

/// # Errors
/// Not a name that a node can be given.
fn check_node_name(name: &str) -> Result<()> {
    check_id(name).map_err(|_| Error::invalid(format!("Invalid node-name: '{name}'")))?;
    if name.len() > MAX_NODE_NAME { Err(Error::invalid("Node name too long")) } else { Ok(()) }
}

pub(super) fn open_child(
    parent: &OpenCtx<'_>,
    role: &str,
    source: ChildSource,
    perms: Perms,
) -> Result<Arc<Node>> {
    let depth = parent.depth + 1;
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!("The chain of images is longer than {MAX_DEPTH}")));
    }
    let mut flags = below(parent.flags);
    // While probing, nobody has said yet what the node is going to be used for.
    let writes = Perm::WRITE | Perm::WRITE_UNCHANGED;
    flags.writable &= perms.own.is_empty() || perms.own.intersects(writes);
    let opener = Opener { env: parent.env, flags, perms, depth, guessed: false };
    match source {
        ChildSource::Describe { filename, options } => {
            let probing = layer_of(parent.driver.kind, role);
            opener.open_permitted(filename, options, probing)
        }
        ChildSource::Opened(node) => node.permit(perms).map(|()| node),
        ChildSource::Nothing => {
            Err(Error::invalid(format!("A block device must be specified for \"{role}\"")))
        }
        ChildSource::Both => Err(both()),
        ChildSource::Reference(name) => {
            Err(Error::new(Kind::NotFound, format!("Cannot find device='{name}' nor node-name='{name}'")))
        }
    }
}

/// How the nodes below one with these flags are opened: what is discarded there is the upper node's decision.
pub(super) fn below(flags: OpenFlags) -> OpenFlags {
    OpenFlags { discard: true, copy_on_read: false, no_backing: false, ..flags }
}

/// What a format keeps its bytes in (`file`, `header`, `data-file`) is a protocol, and so is what stands for it, whose
/// kind is protocol too; anything else without a driver is probed.
fn layer_of(parent: DriverKind, role: &str) -> Layer {
    match parent {
        DriverKind::Format if role == "backing" => Layer::Any,
        // What is compared with a copy is an image.
        _ if role == "test" || role.starts_with("children.") => Layer::Any,
        DriverKind::Format | DriverKind::Protocol | DriverKind::Filter => Layer::Protocol,
    }
}

/// What a name without a driver may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// A probed format on a protocol.
    Any,
    /// The protocol alone.
    Protocol,
}

/// Opens one node, with what its parent said.
pub(super) struct Opener<'a> {
    pub(super) env: Env<'a>,
    pub(super) flags: OpenFlags,
    pub(super) perms: Perms,
    pub(super) depth: u32,
    /// The format is one that probing found.
    pub(super) guessed: bool,
}

/// Options every node takes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Common {
    node_name: Option<String>,
    read_only: Option<bool>,
    auto_read_only: Option<bool>,
    force_share: Option<bool>,
    discard: Option<String>,
    detect_zeroes: Option<String>,
    cache: CacheSwitches,
    active: Option<bool>,
    /// All of them, as they were given.
    #[serde(skip)]
    given: Options,
    /// What the node would be opened with if none of them were.
    #[serde(skip)]
    inherited: OpenFlags,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct CacheSwitches {
    direct: Option<bool>,
    no_flush: Option<bool>,
}

/// The names of the options every node takes.
pub(super) const COMMON: [&str; 9] = [
    "node-name",
    "read-only",
    "auto-read-only",
    "force-share",
    "discard",
    "detect-zeroes",
    "cache.direct",
    "cache.no-flush",
    "active",
];

impl Opener<'_> {
    /// Opens the protocol that `filename` and `options` describe.
    pub(super) fn open_protocol(self, filename: &str, options: Options) -> Result<Arc<Node>> {
        self.open_permitted(Some(filename.to_owned()), options, Layer::Protocol)
    }

    /// Opens a node whose parent is known, and takes the rights that this one wants.
    fn open_permitted(self, filename: Option<String>, options: Options, layer: Layer) -> Result<Arc<Node>> {
        let perms = self.perms;
        let node = self.open(filename, options, layer)?;
        node.permit(perms)?;
        Ok(node)
    }

    fn open(mut self, filename: Option<String>, mut options: Options, layer: Layer) -> Result<Arc<Node>> {
        let filename = expand_json(filename, &mut options)?;
        let common = self.take_common(&mut options)?;
        self.forgo_backing(&mut options);
        let named = self.named_driver(&mut options)?;
        match named {
            Some(row) if row.kind == DriverKind::Protocol => self.protocol(row, filename, options, &common),
            Some(row) => {
                let children = take_children(row, filename, &mut options);
                self.finish(row, options, children, &common)
            }
            None if layer == Layer::Protocol => {
                let row = super::create::protocol_of(self.env, filename.as_deref())?;
                self.protocol(row, filename, options, &common)
            }
            None => self.probed(filename, options, &common),
        }
    }

    /// Obeys the older way to say that there is to be no backing file.
    fn forgo_backing(&mut self, options: &mut Options) {
        if options.get_str("backing") == Some("") {
            crate::tool::warning("Use of \"backing\": \"\" is deprecated; use \"backing\": null instead");
            options.take("backing");
            self.flags.no_backing = true;
        }
    }

    pub(super) fn take_common(&mut self, options: &mut Options) -> Result<Common> {
        let mut tree = Options::new();
        for key in COMMON {
            if let Some(value) = options.take(key) {
                tree.set(key, value)?;
            }
        }
        let common = Common { given: tree.clone(), inherited: self.flags, ..tree.parse()? };
        common.node_name.as_deref().map_or(Ok(()), check_node_name)?;
        if self.depth == 0 && common.active == Some(false) && self.perms.own.intersects(Perm::CHANGES) {
            let wanted = self.perms.own.names();
            return Err(Error::invalid(format!("Permission '{wanted}' unavailable on inactive node")));
        }
        let flags = &mut self.flags;
        flags.writable &= !common.read_only.unwrap_or(false);
        flags.force_share |= common.force_share.unwrap_or(false);
        flags.discard = match common.discard.as_deref() {
            None => flags.discard,
            Some("unmap" | "on") => true,
            Some("ignore" | "off") => false,
            Some(_) => return Err(Error::invalid("Invalid discard option")),
        };
        flags.cache.direct = common.cache.direct.unwrap_or(flags.cache.direct);
        flags.cache.no_flush = common.cache.no_flush.unwrap_or(flags.cache.no_flush);
        if flags.force_share && (flags.writable || common.read_only == Some(false)) {
            return Err(Error::invalid("force-share=on can only be used with read-only images"));
        }
        let detect = common.detect_zeroes.as_deref().map(super::name_in).transpose()?;
        if detect == Some(DetectZeroes::Unmap) && !flags.discard {
            return Err(Error::invalid(
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
            ));
        }
        // Asked of one node, it is for that node; asked for the image, for the top node.
        let inherited = if self.depth == 0 { flags.detect_zeroes } else { DetectZeroes::Off };
        flags.detect_zeroes = detect.unwrap_or(inherited);
        Ok(common)
    }

    fn named_driver(&self, options: &mut Options) -> Result<Option<&'static DriverRow>> {
        let Some(value) = options.take("driver") else { return Ok(None) };
        let name = value.as_str().ok_or_else(|| Error::invalid("Parameter 'driver' expects a string"))?;
        let row = self.env.drivers.find(name);
        row.map(Some).ok_or_else(|| Error::invalid(format!("Unknown driver '{name}'")))
    }

    fn protocol(
        self,
        row: &'static DriverRow,
        filename: Option<String>,
        mut options: Options,
        common: &Common,
    ) -> Result<Arc<Node>> {
        if let Some(filename) = filename {
            let mut parsed = (row.parse_filename)(&filename)?;
            parsed.overlay(options)?;
            options = parsed;
        }
        let children = take_children(row, None, &mut options);
        self.finish(row, options, children, common)
    }

    /// Opens the protocol, looks at what is there, and puts the format on it.
    fn probed(self, filename: Option<String>, mut options: Options, common: &Common) -> Result<Arc<Node>> {
        let below = match child_source(filename, options.take("file"), Layer::Protocol) {
            None | Some(ChildSource::Nothing) => {
                return Err(Error::invalid("Must specify either driver or file"));
            }
            Some(ChildSource::Both) => return Err(both()),
            Some(ChildSource::Reference(name)) => {
                let text = format!("Cannot find device='{name}' nor node-name='{name}'");
                return Err(Error::new(Kind::NotFound, text));
            }
            Some(ChildSource::Opened(node)) => node,
            Some(ChildSource::Describe { filename, options }) => {
                // The node gets its rights from the format. What a filter has below keeps those it is opened with,
                // which must do for any format.
                let mut own = self.flags.perms().own;
                own.set(Perm::RESIZE, own.contains(Perm::WRITE));
                let perms = Perms { own, shared: Perm::all() };
                let flags = below(self.flags);
                let depth = self.depth + 1;
                let opener = Opener { env: self.env, flags, perms, depth, guessed: false };
                opener.open(filename, options, Layer::Protocol)?
            }
        };
        let row = probe(self.env, &below)?;
        let mut children = take_children(row, None, &mut options);
        children.insert("file", ChildSource::Opened(below));
        Opener { guessed: true, ..self }.finish(row, options, children, common)
    }

    fn finish(
        self,
        row: &'static DriverRow,
        options: Options,
        children: BTreeMap<&'static str, ChildSource>,
        common: &Common,
    ) -> Result<Arc<Node>> {
        let Opener { env, flags, perms, depth, guessed } = self;
        if flags.copy_on_read && !flags.writable {
            return Err(Error::invalid("Can't use copy-on-read on read-only device"));
        }
        let opened = Vec::new();
        let mut ctx = OpenCtx { env, flags, perms, guessed, driver: row, options, children, depth, opened };
        let driver = (row.open)(&mut ctx)?;
        if let Some((role, source)) = ctx.children.iter().next() {
            let option = source.first_option(role);
            let text = format!("Block format '{}' does not support the option '{option}'", row.name);
            return Err(Error::invalid(text));
        }
        let name = node_name(row, &ctx.options, &ctx.opened, common);
        if common.active != Some(false) {
            ctx.opened.iter().try_for_each(|child| check_active(child, &name))?;
        }
        let OpenCtx { options, .. } = ctx;
        let opened =
            Opened { row, options, common: common.given.clone(), inherited: common.inherited, depth };
        let flags = NodeFlags { guessed, ..flags.for_node() };
        let node = Node::with_state(State { driver, flags, opened: Some(opened) }, name);
        trace::tell(Operation::Open, node.name(), || format!(" filename \"{}\"", node.name().filename));
        Ok(node)
    }
}

/// Refuses a node that is not in use below one that is.
fn check_active(child: &Child, parent: &NodeName) -> Result<()> {
    let state = child.node().state();
    let active = state.opened.as_ref().and_then(|opened| opened.common.get("active"));
    if active.is_none_or(|active| *active != false && *active != "off") {
        return Ok(());
    }
    let (role, below, above) = (child.role(), &child.node().name().node, &parent.node);
    Err(Error::invalid(format!("Inactive '{below}' can't be a {role} child of active '{above}'")))
}

/// Turns a `json:{…}` file name into options; those given directly win.
fn expand_json(filename: Option<String>, options: &mut Options) -> Result<Option<String>> {
    let Some(text) = filename.as_deref().and_then(|name| name.strip_prefix("json:")) else {
        return Ok(filename);
    };
    let mut tree = Options::from_json(text)?;
    tree.overlay(std::mem::take(options))?;
    *options = tree;
    Ok(None)
}

/// Takes the options of a driver's children out of its own.
fn take_children(
    row: &'static DriverRow,
    filename: Option<String>,
    options: &mut Options,
) -> BTreeMap<&'static str, ChildSource> {
    let mut filename = filename;
    let mut children = BTreeMap::new();
    // That there is to be no backing file may be said of any driver.
    if !row.children.contains(&"backing") && options.get("backing") == Some(&Value::Null) {
        options.take("backing");
    }
    for role in row.children {
        let name = if *role == "file" { filename.take() } else { None };
        // How the file name of a filter names its child.
        let inner = || options.take(&format!("x-{role}"))?.as_str().map(str::to_owned);
        let name = name.or_else(inner);
        if let Some(source) = child_source(name, options.take(role), layer_of(row.kind, role)) {
            children.insert(*role, source);
        }
    }
    children
}

fn both() -> Error {
    Error::invalid("Cannot reference an existing block device with additional options or a new filename")
}

/// What is to become a child on this layer; only a protocol needs no more than a name among the options.
fn child_source(filename: Option<String>, value: Option<Value>, layer: Layer) -> Option<ChildSource> {
    match value {
        Some(Value::Null) if filename.is_none() => Some(ChildSource::Nothing),
        None | Some(Value::Null) => {
            filename.map(|name| ChildSource::Describe { filename: Some(name), options: Options::new() })
        }
        Some(Value::Object(map)) if map.contains_key(OWN) => Some(ChildSource::Both),
        Some(Value::Object(map)) => {
            let mut options = Options::from_map(map).unwrap_or_default();
            let named = options.get("driver").is_none() && layer == Layer::Protocol;
            let named = named.then(|| options.take("filename")).flatten();
            let filename = filename.or_else(|| named.and_then(|v| v.as_str().map(str::to_owned)));
            Some(ChildSource::Describe { filename, options })
        }
        Some(Value::String(_)) if filename.is_some() => Some(ChildSource::Both),
        Some(Value::String(name)) => Some(ChildSource::Reference(name)),
        Some(other) => Some(ChildSource::Reference(other.to_string())),
    }
}

fn probe(env: Env<'_>, below: &Arc<Node>) -> Result<&'static DriverRow> {
    let mut head = [0; PROBE_BYTES];
    let len = usize::try_from(below.len()?).unwrap_or(PROBE_BYTES).min(PROBE_BYTES);
    below.read(0, &mut IoVecMut::from(&mut head[..len])).map_err(|e| {
        Error::from_errno(e.errno()).context("Could not read image for determining its format")
    })?;
    env.drivers
        .probe(&Probe { head: &head[..len] })
        .ok_or_else(|| Error::invalid("Could not determine image format: No compatible driver found"))
}

/// The name of a node: the file's where that says it all, else a description.
fn node_name(row: &DriverRow, options: &Options, children: &[Child], common: &Common) -> NodeName {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let node = common
        .node_name
        .clone()
        .unwrap_or_else(|| format!("#block{:03}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let filename = match row.kind {
        DriverKind::Protocol => {
            (row.filename)(options, children).unwrap_or_else(|| json_name(described(row, options, children)))
        }
        _ => layered_name(row, options, children),
    };
    NodeName { driver: row.name, filename, node, description: described(row, options, children) }
}

fn layered_name(row: &DriverRow, options: &Options, children: &[Child]) -> String {
    let strong = row.strong_options.iter().any(|key| options.get(key).is_some());
    match children.iter().find(|c| c.role() == "file") {
        // A name stands for one format on a protocol, not for formats on formats or filters.
        Some(file) if !strong && row.kind == DriverKind::Format && is_plain(file) => {
            file.node().name().filename.clone()
        }
        _ => json_name(described(row, options, children)),
    }
}

/// Whether this is a protocol that a file name says all about.
fn is_plain(child: &Child) -> bool {
    let node = child.node();
    let kind = node.state().opened.as_ref().map_or(DriverKind::Protocol, |opened| opened.row.kind);
    kind == DriverKind::Protocol && !node.name().filename.starts_with("json:")
}

/// The options that would open this node again: those of its own with dotted names, nodes below as groups.
fn described(row: &DriverRow, options: &Options, children: &[Child]) -> Map<String, Value> {
    let mut description = Map::new();
    description.insert("driver".into(), row.name.into());
    for key in row.strong_options {
        if let Some(value) = options.get(key) {
            put_dotted(&mut description, (*key).to_owned(), value);
        }
    }
    for child in children.iter().filter(|c| c.role() != "backing") {
        put_group(&mut description, child.role(), child.node().name().description.clone());
    }
    description
}

fn put_dotted(to: &mut Map<String, Value>, key: String, value: &Value) {
    match value {
        Value::Object(group) => {
            group.iter().for_each(|(name, value)| put_dotted(to, format!("{key}.{name}"), value));
        }
        value => drop(to.insert(key, value.clone())),
    }
}

/// Puts the description of a node in its role; several of one kind (`children.0`, `children.1`) make a list.
fn put_group(to: &mut Map<String, Value>, role: &str, group: Map<String, Value>) {
    let Some((list, index)) = role.split_once('.') else {
        to.insert(role.to_owned(), group.into());
        return;
    };
    let list = to.entry(list).or_insert_with(|| Map::new().into());
    if let Value::Object(list) = list {
        put_group(list, index, group);
    }
}
