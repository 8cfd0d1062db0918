//! Negotiation as the client, over any transport: newstyle, fixed or not, and oldstyle.
//!
//! What the server sends is bounded before it is read: replies to options by [`MAX_REPLY`], lists by [`MAX_EXPORTS`].

use super::super::wire::{
    BASE_ALLOCATION, Fields, HandshakeFlags, Headers, INIT_MAGIC, MAX_STRING, OLDSTYLE_MAGIC, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, TransmissionFlags, info, option, reply,
};
use crate::channel::{ClientTls, Transport, read_exact, write_all};
use crate::{Context, Error, IoVec, IoVecMut, Kind, Result};
use std::io;
use std::sync::Arc;

/// The longest reply to an option, in bytes: an export's name and description, with room.
const MAX_REPLY: u32 = 4 * MAX_STRING as u32;

/// The most exports or contexts a server may list.
const MAX_EXPORTS: usize = 10_000;

/// What the client wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The export's name.
    pub export: String,
    /// The meta context to ask the blocks' state in, if any.
    pub context: Option<String>,
    /// The best headers to ask for.
    pub headers: Headers,
}

/// What a server says of an export, and what was agreed on.
#[derive(Debug, Clone)]
pub struct ExportInfo {
    /// Its name.
    pub name: String,
    /// Text for people.
    pub description: Option<String>,
    /// Length in bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// Minimum, preferred and maximum block size in bytes, if told.
    pub block_sizes: Option<[u32; 3]>,
    /// The form of requests and replies.
    pub headers: Headers,
    /// The contexts chosen, or (listing) those there are, with their ids.
    pub contexts: Vec<(u32, String)>,
}

impl ExportInfo {
    fn new(name: &str, headers: Headers) -> Self {
        ExportInfo {
            name: name.to_owned(),
            description: None,
            size: 0,
            flags: TransmissionFlags::empty(),
            block_sizes: None,
            headers,
            contexts: Vec::new(),
        }
    }
}

/// How the server negotiates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Old,
    New { fixed: bool, no_zeroes: bool },
}

/// Gets to the transmission phase, over TLS when `tls` is given: the transport to go on with is the second result.
///
/// # Errors
/// The connection breaks, the server breaks the protocol, is not who it should be, or refuses.
pub fn negotiate(
    transport: Arc<dyn Transport>,
    wanted: &Wanted,
    tls: Option<&ClientTls>,
) -> Result<(ExportInfo, Arc<dyn Transport>)> {
    let mut talk = Talk { transport, secure: false };
    let export = match talk.start(tls)? {
        Style::Old => talk.oldstyle(&wanted.export),
        Style::New { fixed: false, no_zeroes } => {
            talk.export_name(ExportInfo::new(&wanted.export, Headers::Simple), no_zeroes)
        }
        Style::New { fixed: true, no_zeroes } => talk.fixed(wanted, no_zeroes),
    }?;
    Ok((export, talk.transport))
}

/// All a server tells about its exports; the connection is of no use afterwards.
///
/// # Errors
/// As for [`negotiate`].
pub fn list(transport: Arc<dyn Transport>, tls: Option<&ClientTls>) -> Result<Vec<ExportInfo>> {
    let mut talk = Talk { transport, secure: false };
    match talk.start(tls)? {
        Style::Old => Ok(vec![talk.oldstyle("")?]),
        Style::New { fixed: false, .. } => {
            let text = "Did not receive FIXED_NEWSTYLE; this server cannot list its exports";
            Err(Error::unsupported(text))
        }
        Style::New { fixed: true, .. } => {
            let list = talk.list_all();
            // Leaving politely; the answer changes nothing.
            let _ = talk.send_option(option::ABORT, &[]);
            list
        }
    }
}

struct Talk {
    transport: Arc<dyn Transport>,
    secure: bool,
}

/// One reply to an option.
struct Reply {
    kind: u32,
    data: Vec<u8>,
}

impl Talk {
    fn read(&mut self, to: &mut [u8], what: &str) -> Result<()> {
        let done =
            read_exact(&*self.transport, &mut IoVecMut::from(to), || Err(io::ErrorKind::TimedOut.into()));
        done.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof if self.secure => {
                let text = "Cannot read from TLS channel: The TLS connection was non-properly terminated.";
                Error::new(Kind::Io, text)
                    .with_hint("The server may not let this client in; its log may say why.")
            }
            io::ErrorKind::UnexpectedEof => {
                Error::new(Kind::Io, "Unexpected end-of-file before all data were read")
            }
            _ => e.into(),
        })
        .context(|| format!("Failed to read {what}"))
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes, what)?;
        Ok(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stalled = || Err(io::ErrorKind::TimedOut.into());
        match write_all(&*self.transport, &IoVec::from(bytes), stalled) {
            // A server that left may have said why; whoever reads next finds out.
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Ok(())
            }
            done => done.context(|| "Failed to send option"),
        }
    }

    /// Up to where options begin, secured if that is wanted.
    fn start(&mut self, tls: Option<&ClientTls>) -> Result<Style> {
        let style = self.greet()?;
        match (tls, style) {
            (None, _) => {}
            (Some(tls), Style::New { fixed: true, .. }) => self.start_tls(tls)?,
            (Some(_), _) => return Err(Error::invalid("Server does not support STARTTLS")),
        }
        Ok(style)
    }

    fn greet(&mut self) -> Result<Style> {
        if u64::from_be_bytes(self.array("initial magic")?) != INIT_MAGIC {
            return Err(Error::invalid("Bad initial magic received"));
        }
        match u64::from_be_bytes(self.array("server magic")?) {
            OLDSTYLE_MAGIC => Ok(Style::Old),
            OPTION_MAGIC => {
                let bits = u16::from_be_bytes(self.array("server flags")?);
                let flags = HandshakeFlags::from_bits_truncate(bits);
                self.write(&u32::from(flags.bits()).to_be_bytes())?;
                Ok(Style::New {
                    fixed: flags.contains(HandshakeFlags::FIXED_NEWSTYLE),
                    no_zeroes: flags.contains(HandshakeFlags::NO_ZEROES),
                })
            }
            other => Err(Error::invalid(format!("Bad server magic received: 0x{other:x}"))),
        }
    }

    /// Everything before was read to the byte and nothing of it is kept, so nothing injected before TLS counts.
    fn start_tls(&mut self, tls: &ClientTls) -> Result<()> {
        let reply = self.ask(option::STARTTLS, &[])?;
        match reply.kind {
            reply::ACK if reply.data.is_empty() => {}
            reply::ACK => return Err(Error::invalid("Start TLS response was not zero")),
            kind if kind & (1 << 31) != 0 => return Err(refused(option::STARTTLS, &reply)),
            kind => {
                return Err(Error::invalid(format!("Server rejected request to start TLS {kind:#x}")));
            }
        }
        self.transport = Arc::new(tls.connect(Arc::clone(&self.transport))?);
        self.secure = true;
        Ok(())
    }

    fn oldstyle(&mut self, name: &str) -> Result<ExportInfo> {
        if !name.is_empty() {
            return Err(Error::invalid("Server does not support non-empty export names"));
        }
        let mut export = ExportInfo::new(name, Headers::Simple);
        export.size = u64::from_be_bytes(self.array("export length")?);
        // The upper half has always been zero.
        let flags = u32::from_be_bytes(self.array("export flags")?);
        export.flags = TransmissionFlags::from_bits_truncate((flags & 0xffff) as u16);
        let _zeroes: [u8; 124] = self.array("reserved block")?;
        Ok(export)
    }

    fn fixed(&mut self, wanted: &Wanted, no_zeroes: bool) -> Result<ExportInfo> {
        let mut export = ExportInfo::new(&wanted.export, self.upgrade(wanted.headers)?);
        if let Some(context) = wanted.context.as_ref().filter(|_| export.headers >= Headers::Structured) {
            export.contexts = self.meta_contexts(option::SET_META_CONTEXT, &wanted.export, &[context])?;
            // A server may answer for more than was asked.
            export.contexts.retain(|(_, name)| name == context);
        }
        match self.info(option::GO, &mut export)? {
            true => Ok(export),
            false => {
                self.check_listed(&wanted.export)?;
                self.export_name(export, no_zeroes)
            }
        }
    }

    /// The best headers the server has, up to `best`.
    fn upgrade(&mut self, best: Headers) -> Result<Headers> {
        let steps =
            [(option::EXTENDED_HEADERS, Headers::Extended), (option::STRUCTURED_REPLY, Headers::Structured)];
        for (option, headers) in steps.into_iter().filter(|(_, headers)| *headers <= best) {
            let reply = self.ask(option, &[])?;
            match reply.kind {
                reply::ACK => return Ok(headers),
                kind if kind & (1 << 31) != 0 => {}
                _ => return Err(unexpected(option, &reply)),
            }
        }
        Ok(Headers::Simple)
    }

    fn send_option(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).expect("options are short").to_be_bytes());
        bytes.extend(data);
        self.write(&bytes)
    }

    fn ask(&mut self, option: u32, data: &[u8]) -> Result<Reply> {
        self.send_option(option, data)?;
        self.reply(option)
    }

    fn reply(&mut self, option: u32) -> Result<Reply> {
        let header: [u8; 20] = self.array("option reply")?;
        let mut fields = Fields(&header);
        let (magic, to) = (fields.u64(), fields.u32());
        let (kind, len) = (fields.u32().unwrap_or_default(), fields.u32().unwrap_or_default());
        if magic != Some(OPTION_REPLY_MAGIC) {
            return Err(Error::invalid("Unexpected option reply magic"));
        }
        if to != Some(option) {
            return Err(Error::invalid(format!(
                "Unexpected option type {} ({})",
                to.unwrap_or_default(),
                name(to.unwrap_or_default())
            )));
        }
        if len > MAX_REPLY {
            return Err(Error::invalid(format!("option reply of {len} bytes is too long")));
        }
        let mut data = vec![0; len as usize];
        self.read(&mut data, "option reply")?;
        Ok(Reply { kind, data })
    }

    /// `GO` or `INFO`; `false` when the server does not know them.
    fn info(&mut self, option: u32, export: &mut ExportInfo) -> Result<bool> {
        let mut data = string(&export.name);
        let wanted: &[u16] =
            if option == option::GO { &[info::BLOCK_SIZE] } else { &[info::BLOCK_SIZE, info::DESCRIPTION] };
        data.extend(u16::try_from(wanted.len()).expect("two at most").to_be_bytes());
        wanted.iter().for_each(|kind| data.extend(kind.to_be_bytes()));
        self.send_option(option, &data)?;
        let mut described = false;
        for _ in 0..MAX_EXPORTS {
            let reply = self.reply(option)?;
            match reply.kind {
                reply::ACK if described => return Ok(true),
                reply::ACK => return Err(Error::invalid("broken server omitted NBD_INFO_EXPORT")),
                reply::INFO => described |= take_info(&reply.data, export)?,
                reply::ERR_UNSUP => return Ok(false),
                kind if kind & (1 << 31) != 0 => return Err(refused(option, &reply)),
                _ => return Err(unexpected(option, &reply)),
            }
        }
        Err(Error::invalid("The server tells too much about the export"))
    }

    fn meta_contexts(&mut self, option: u32, export: &str, queries: &[&str]) -> Result<Vec<(u32, String)>> {
        let mut data = string(export);
        data.extend(u32::try_from(queries.len()).expect("few queries").to_be_bytes());
        queries.iter().for_each(|query| data.extend(string(query)));
        self.send_option(option, &data)?;
        let mut list = Vec::new();
        while list.len() < MAX_EXPORTS {
            let reply = self.reply(option)?;
            match reply.kind {
                reply::ACK => return Ok(list),
                reply::META_CONTEXT => {
                    let mut fields = Fields(&reply.data);
                    let id = fields.u32().ok_or_else(|| unexpected(option, &reply))?;
                    list.push((id, String::from_utf8_lossy(fields.0).into_owned()));
                }
                // Without contexts there is still an export; what is wrong with it, GO will tell.
                kind if kind & (1 << 31) != 0 => return Ok(Vec::new()),
                _ => return Err(unexpected(option, &reply)),
            }
        }
        Err(Error::invalid("The server lists too many meta contexts"))
    }

    fn list(&mut self) -> Result<Vec<(String, String)>> {
        self.send_option(option::LIST, &[])?;
        let mut list = Vec::new();
        while list.len() < MAX_EXPORTS {
            let reply = self.reply(option::LIST)?;
            match reply.kind {
                reply::ACK => return Ok(list),
                reply::SERVER => {
                    let mut fields = Fields(&reply.data);
                    let name = fields.string().ok_or_else(|| unexpected(option::LIST, &reply))?;
                    let text = String::from_utf8_lossy(fields.0).into_owned();
                    list.push((name.to_owned(), text));
                }
                kind if kind & (1 << 31) != 0 => return Err(refused(option::LIST, &reply)),
                _ => return Err(unexpected(option::LIST, &reply)),
            }
        }
        Err(Error::invalid("The server lists too many exports"))
    }

    fn list_all(&mut self) -> Result<Vec<ExportInfo>> {
        let headers = self.upgrade(Headers::Extended)?;
        let mut list = Vec::new();
        for (name, text) in self.list()? {
            let mut export = ExportInfo::new(&name, headers);
            export.description = Some(text).filter(|text| !text.is_empty());
            if self.info(option::INFO, &mut export)? && headers >= Headers::Structured {
                export.contexts = self.meta_contexts(option::LIST_META_CONTEXT, &name, &[])?;
            }
            list.push(export);
        }
        Ok(list)
    }

    /// `EXPORT_NAME` has no way to say no, so an unknown name is found out before.
    fn check_listed(&mut self, name: &str) -> Result<()> {
        match self.list() {
            Ok(list) if list.iter().all(|(other, _)| other != name) => {
                Err(Error::new(Kind::NotFound, format!("No export with name '{name}' available")))
            }
            // A server that does not list may have it all the same.
            _ => Ok(()),
        }
    }

    fn export_name(&mut self, mut export: ExportInfo, no_zeroes: bool) -> Result<ExportInfo> {
        self.send_option(option::EXPORT_NAME, export.name.clone().as_bytes())?;
        export.size = u64::from_be_bytes(self.array("export length")?);
        let flags = u16::from_be_bytes(self.array("export flags")?);
        export.flags = TransmissionFlags::from_bits_truncate(flags);
        if !no_zeroes {
            let _zeroes: [u8; 124] = self.array("reserved block")?;
        }
        Ok(export)
    }
}

/// Takes one piece of information; `true` when it is the one that must come.
fn take_info(data: &[u8], export: &mut ExportInfo) -> Result<bool> {
    let mut fields = Fields(data);
    let short = || Error::invalid("information from the server is incomplete");
    let kind = fields.u16().ok_or_else(short)?;
    match kind {
        info::EXPORT => {
            export.size = fields.u64().ok_or_else(short)?;
            export.flags = TransmissionFlags::from_bits_truncate(fields.u16().ok_or_else(short)?);
        }
        info::BLOCK_SIZE => {
            let mut size = || fields.u32().ok_or_else(short);
            export.block_sizes = Some(check_sizes([size()?, size()?, size()?])?);
        }
        info::DESCRIPTION => export.description = Some(String::from_utf8_lossy(fields.0).into_owned()),
        // A name we know already, or something newer than we are.
        _ => {}
    }
    Ok(kind == info::EXPORT)
}

fn check_sizes([min, preferred, max]: [u32; 3]) -> Result<[u32; 3]> {
    if !min.is_power_of_two() {
        return Err(Error::invalid(format!("server minimum block size {min} is not a power of two")));
    }
    if !preferred.is_power_of_two() || preferred < min {
        return Err(Error::invalid(format!("server preferred block size {preferred} is not valid")));
    }
    if max < min {
        return Err(Error::invalid(format!("server maximum block size {max} is not valid")));
    }
    Ok([min, preferred, max])
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).expect("names are checked").to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn unexpected(option: u32, reply: &Reply) -> Error {
    let (kind, what) = (reply.kind, name(option));
    Error::invalid(format!("Unexpected reply type {kind:#x} to option {option} ({what})"))
}

/// What a refusal means; the server's own words are the hint.
fn refused(option: u32, reply: &Reply) -> Error {
    let what = format!("option {option} ({})", name(option));
    let text = match reply.kind {
        reply::ERR_UNSUP => format!("Unsupported option type {option} ({})", name(option)),
        reply::ERR_POLICY => format!("Denied by server for {what}"),
        reply::ERR_INVALID => format!("Invalid parameters for {what}"),
        reply::ERR_PLATFORM => format!("Server lacks support for {what}"),
        reply::ERR_TLS_REQD => format!("TLS negotiation required before {what}"),
        reply::ERR_UNKNOWN => "Requested export not available".to_owned(),
        reply::ERR_SHUTDOWN => format!("Server shutting down before {what}"),
        reply::ERR_BLOCK_SIZE_REQD => format!("Server requires INFO_BLOCK_SIZE for {what}"),
        kind => format!("Unknown error code {kind:#x} when asking for {what}"),
    };
    let mut hints = Vec::new();
    if reply.kind == reply::ERR_TLS_REQD {
        hints.push("Did you forget a valid tls-creds?".to_owned());
    }
    if !reply.data.is_empty() {
        let said: String = String::from_utf8_lossy(&reply.data).chars().take(MAX_STRING).collect();
        hints.push(format!("server reported: {said}"));
    }
    let error = Error::invalid(text);
    if hints.is_empty() { error } else { error.with_hint(hints.join("\n")) }
}

fn name(option: u32) -> &'static str {
    match option {
        option::EXPORT_NAME => "export name",
        option::ABORT => "abort",
        option::LIST => "list",
        option::STARTTLS => "starttls",
        option::INFO => "info",
        option::GO => "go",
        option::STRUCTURED_REPLY => "structured reply",
        option::LIST_META_CONTEXT => "list meta context",
        option::SET_META_CONTEXT => "set meta context",
        option::EXTENDED_HEADERS => "extended headers",
        _ => "<unknown>",
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            export: String::new(),
            context: Some(BASE_ALLOCATION.to_owned()),
            headers: Headers::Extended,
        }
    }
}
