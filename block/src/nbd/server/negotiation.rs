//! Fixed newstyle negotiation as the server: bytes in, bytes out.
//!
//! [`Negotiation::receive`] takes what the client sent and leaves what it is to be sent in [`Negotiation::output`]. At most
//! [`MAX_OPTION`] bytes of input are kept, and no option is begun while more than [`MAX_OUTPUT`] bytes wait to be sent, so a
//! client costs bounded memory whatever it claims.

use super::super::wire::{
    Fields, HandshakeFlags, Headers, INIT_MAGIC, MAX_STRING, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    TransmissionFlags, info, option, reply,
};
use super::{Export, Exports};
use std::sync::Arc;

/// The longest option that is looked at, in bytes; longer ones are skipped and refused.
const MAX_OPTION: usize = 1 << 16;

/// The longest option that is skipped, in bytes; a client that claims more is cut off.
const MAX_SKIPPED: u32 = 32 << 20;

/// How much may wait to be sent before the next option is looked at, in bytes.
const MAX_OUTPUT: usize = 1 << 16;

/// What was agreed on.
#[derive(Debug)]
pub struct Session {
    /// What the client works on.
    pub export: Arc<Export>,
    /// The form of requests and replies.
    pub headers: Headers,
    /// The ids of the contexts it may ask for.
    pub contexts: Vec<u32>,
}

/// Where a negotiation stands.
#[derive(Debug)]
pub enum Step {
    /// The client's turn (or, with much waiting to be sent, the network's).
    Continue,
    /// The output is the last in clear: TLS starts, then [`Negotiation::secured`].
    StartTls,
    /// The transmission phase starts after the output; the bytes are input that belongs to it.
    Go(Session, Vec<u8>),
    /// The client left, or is to be cut off (after the output): the sentence says why, where somebody is to blame.
    End(Option<String>),
}

#[derive(Debug, Clone, Copy)]
enum State {
    ClientFlags,
    Options,
    Skip { left: u32, option: u32 },
}

/// Whether TLS is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// It is not to be had.
    None,
    /// Nothing is told before it runs.
    Required,
    /// It runs.
    Running,
}

/// The negotiation with one client.
#[derive(Debug)]
pub struct Negotiation {
    exports: Arc<Exports>,
    state: State,
    input: Vec<u8>,
    /// What is to be sent; the caller takes bytes off its front.
    pub output: Vec<u8>,
    tls: Tls,
    fixed: bool,
    no_zeroes: bool,
    headers: Headers,
    /// The ids of the contexts chosen, and for which export.
    meta: Option<(String, Vec<u32>)>,
}

/// What an option came to.
enum Done {
    /// Answered; the next one.
    Next,
    Go(Arc<Export>),
    StartTls,
    End(Option<String>),
}

impl Negotiation {
    /// Starts with the greeting as output.
    pub fn new(exports: Arc<Exports>, tls: Tls) -> Self {
        let mut output = Vec::with_capacity(256);
        output.extend(INIT_MAGIC.to_be_bytes());
        output.extend(OPTION_MAGIC.to_be_bytes());
        output.extend(HandshakeFlags::all().bits().to_be_bytes());
        Negotiation {
            exports,
            state: State::ClientFlags,
            input: Vec::new(),
            output,
            tls,
            fixed: false,
            no_zeroes: false,
            headers: Headers::Simple,
            meta: None,
        }
    }

    /// Takes bytes from the client; none at all to go on after output was sent.
    pub fn receive(&mut self, bytes: &[u8]) -> Step {
        self.input.extend_from_slice(bytes);
        while self.output.len() <= MAX_OUTPUT {
            let done = match self.state {
                State::ClientFlags => self.client_flags(),
                State::Options => self.next_option(),
                State::Skip { left, option } => self.skip(left, option),
            };
            match done {
                None => return Step::Continue,
                Some(Done::Next) => {}
                Some(Done::End(why)) => return Step::End(why),
                Some(Done::Go(export)) => return self.session(export),
                Some(Done::StartTls) if self.input.is_empty() => return Step::StartTls,
                // Whoever put these bytes there is not the client we will know.
                Some(Done::StartTls) => return Step::End(Some("data injected before TLS".into())),
            }
        }
        Step::Continue
    }

    /// Whether the client has said nothing yet.
    pub fn is_untouched(&self) -> bool {
        self.input.is_empty() && matches!(self.state, State::ClientFlags)
    }

    /// TLS runs: options start again, with nothing remembered from before.
    pub fn secured(&mut self) {
        self.tls = Tls::Running;
        self.headers = Headers::Simple;
        self.meta = None;
    }

    fn session(&mut self, export: Arc<Export>) -> Step {
        let contexts = match self.meta.take() {
            Some((name, contexts)) if name == export.name => contexts,
            _ => Vec::new(),
        };
        let session = Session { export, headers: self.headers, contexts };
        Step::Go(session, std::mem::take(&mut self.input))
    }

    /// The first `n` bytes of the input, once they are there.
    fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        (self.input.len() >= n).then(|| self.input.drain(..n).collect())
    }

    fn client_flags(&mut self) -> Option<Done> {
        let bits = Fields(&self.take(4)?).u32()?;
        let flags = u16::try_from(bits).ok().and_then(HandshakeFlags::from_bits);
        let Some(flags) = flags else {
            return Some(Done::End(Some(format!("Unknown client flags 0x{bits:x} received"))));
        };
        self.fixed = flags.contains(HandshakeFlags::FIXED_NEWSTYLE);
        self.no_zeroes = flags.contains(HandshakeFlags::NO_ZEROES);
        self.state = State::Options;
        Some(Done::Next)
    }

    fn skip(&mut self, left: u32, option: u32) -> Option<Done> {
        let now = left.min(u32::try_from(self.input.len()).unwrap_or(u32::MAX));
        self.input.drain(..now as usize);
        self.state = State::Skip { left: left - now, option };
        if left > now {
            return None;
        }
        self.state = State::Options;
        self.refuse(option, reply::ERR_TOO_BIG, "option too long")
    }

    fn next_option(&mut self) -> Option<Done> {
        let mut header = Fields(self.input.get(..16)?);
        let (magic, option, len) = (header.u64()?, header.u32()?, header.u32()?);
        if magic != OPTION_MAGIC {
            return Some(Done::End(Some("Bad magic received".into())));
        }
        if len as usize > MAX_OPTION {
            if len > MAX_SKIPPED || option == option::EXPORT_NAME || !self.fixed {
                return Some(Done::End(Some(format!("len ({len}) is larger than max len ({MAX_SKIPPED})"))));
            }
            self.input.drain(..16);
            self.state = State::Skip { left: len, option };
            return Some(Done::Next);
        }
        if self.input.len() < 16 + len as usize {
            return None;
        }
        let data = self.take(16 + len as usize)?.split_off(16);
        self.answer(option, &data)
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Option<Done> {
        if !self.fixed && option != option::EXPORT_NAME {
            return Some(Done::End(Some(format!("Unsupported option {option} before fixed newstyle"))));
        }
        if self.tls == Tls::Required {
            return self.answer_before_tls(option, data);
        }
        match option {
            option::EXPORT_NAME => Some(self.export_name(data)),
            option::ABORT => self.abort(),
            option::LIST => self.list(data),
            option::STARTTLS if self.tls == Tls::Running => {
                self.refuse(option, reply::ERR_INVALID, "TLS already enabled")
            }
            option::STARTTLS => self.refuse(option, reply::ERR_POLICY, "TLS not configured"),
            option::INFO | option::GO => self.info(option, data),
            option::STRUCTURED_REPLY => self.upgrade(option, data, Headers::Structured),
            option::EXTENDED_HEADERS => self.upgrade(option, data, Headers::Extended),
            option::LIST_META_CONTEXT => self.meta_context(option, data),
            option::SET_META_CONTEXT => {
                self.meta = None;
                self.meta_context(option, data)
            }
            other => self.refuse(other, reply::ERR_UNSUP, &format!("Unsupported option {other}")),
        }
    }

    fn answer_before_tls(&mut self, option: u32, data: &[u8]) -> Option<Done> {
        match option {
            option::STARTTLS if data.is_empty() => {
                self.ack(option);
                Some(Done::StartTls)
            }
            option::STARTTLS => Some(Done::End(Some("option 5 (starttls) should have zero length".into()))),
            option::ABORT => self.abort(),
            option::EXPORT_NAME => Some(Done::End(Some("Option 0x1 not permitted before TLS".into()))),
            other => self.refuse(
                other,
                reply::ERR_TLS_REQD,
                &format!("Option {other:#x} not permitted before TLS"),
            ),
        }
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[&[u8]]) {
        let len: usize = data.iter().map(|part| part.len()).sum();
        self.output.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        self.output.extend(option.to_be_bytes());
        self.output.extend(kind.to_be_bytes());
        self.output.extend(u32::try_from(len).expect("replies are short").to_be_bytes());
        data.iter().for_each(|part| self.output.extend_from_slice(part));
    }

    fn ack(&mut self, option: u32) {
        self.reply(option, reply::ACK, &[]);
    }

    fn refuse(&mut self, option: u32, kind: u32, text: &str) -> Option<Done> {
        let text = &text[..text.floor_char_boundary(MAX_STRING)];
        self.reply(option, kind, &[text.as_bytes()]);
        Some(Done::Next)
    }

    fn abort(&mut self) -> Option<Done> {
        self.ack(option::ABORT);
        Some(Done::End(None))
    }

    fn list(&mut self, data: &[u8]) -> Option<Done> {
        if !data.is_empty() {
            return self.refuse(option::LIST, reply::ERR_INVALID, "option 3 (list) should have zero length");
        }
        for export in &Arc::clone(&self.exports).0 {
            let name = export.name.as_bytes();
            let len = u32::try_from(name.len()).expect("names are short").to_be_bytes();
            let text = export.description.as_deref().unwrap_or_default().as_bytes();
            self.reply(option::LIST, reply::SERVER, &[&len, name, text]);
        }
        self.ack(option::LIST);
        Some(Done::Next)
    }

    fn upgrade(&mut self, option: u32, data: &[u8], to: Headers) -> Option<Done> {
        if !data.is_empty() {
            return self.refuse(option, reply::ERR_INVALID, "option should have zero length");
        }
        if self.headers == Headers::Extended && to == Headers::Structured {
            return self.refuse(option, reply::ERR_EXT_HEADER_REQD, "extended headers already negotiated");
        }
        if self.headers == to {
            return self.refuse(option, reply::ERR_INVALID, "already negotiated");
        }
        self.headers = to;
        self.ack(option);
        Some(Done::Next)
    }

    fn export_name(&mut self, data: &[u8]) -> Done {
        if self.headers == Headers::Extended {
            return Done::End(Some("NBD_OPT_EXPORT_NAME after extended headers".into()));
        }
        let name = std::str::from_utf8(data).ok().filter(|name| name.len() <= MAX_STRING);
        let Some(export) = name.and_then(|name| self.exports.find(name)).cloned() else {
            let name = String::from_utf8_lossy(data);
            return Done::End(Some(format!("export '{}' not present", name.escape_debug())));
        };
        self.output.extend(export.size().to_be_bytes());
        self.output.extend(self.flags(&export).bits().to_be_bytes());
        if !self.no_zeroes {
            self.output.extend([0; 124]);
        }
        Done::Go(export)
    }

    /// The flags of an export as this client may see them.
    fn flags(&self, export: &Export) -> TransmissionFlags {
        let mut flags = export.flags();
        flags.set(TransmissionFlags::SEND_DF, self.headers >= Headers::Structured);
        let contexts =
            self.meta.as_ref().is_some_and(|(name, list)| *name == export.name && !list.is_empty());
        flags.set(TransmissionFlags::BLOCK_STATUS_PAYLOAD, self.headers == Headers::Extended && contexts);
        flags
    }

    fn info(&mut self, option: u32, data: &[u8]) -> Option<Done> {
        let Some((name, wanted)) = parse_info(data) else {
            return self.refuse(option, reply::ERR_INVALID, "malformed request for information");
        };
        let Some(export) = self.exports.find(name).cloned() else {
            let text = format!("export '{}' not present", name.escape_debug());
            return self.refuse(option, reply::ERR_UNKNOWN, &text);
        };
        if wanted.contains(&info::NAME) {
            self.reply(option, reply::INFO, &[&info::NAME.to_be_bytes(), export.name.as_bytes()]);
        }
        if let Some(text) = &export.description {
            self.reply(option, reply::INFO, &[&info::DESCRIPTION.to_be_bytes(), text.as_bytes()]);
        }
        let [mut min, preferred, max] = export.block_sizes();
        if !wanted.contains(&info::BLOCK_SIZE) {
            // Who does not ask may send anything; the node below aligns it.
            min = 1;
        }
        let sizes = [min, preferred, max].map(u32::to_be_bytes);
        self.reply(option, reply::INFO, &[&info::BLOCK_SIZE.to_be_bytes(), sizes.as_flattened()]);
        let mut flags = self.flags(&export);
        if option == option::INFO && self.headers == Headers::Extended {
            // Contexts can still be chosen.
            flags |= TransmissionFlags::BLOCK_STATUS_PAYLOAD;
        }
        let (size, flags) = (export.size().to_be_bytes(), flags.bits().to_be_bytes());
        self.reply(option, reply::INFO, &[&info::EXPORT.to_be_bytes(), &size, &flags]);
        self.ack(option);
        Some(if option == option::GO { Done::Go(export) } else { Done::Next })
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) -> Option<Done> {
        let set = option == option::SET_META_CONTEXT;
        if set && self.headers == Headers::Simple {
            let text = "request option 'set meta context' when structured reply is not negotiated";
            return self.refuse(option, reply::ERR_INVALID, text);
        }
        let Some((name, queries)) = parse_queries(data) else {
            return self.refuse(option, reply::ERR_INVALID, "malformed query for meta contexts");
        };
        let Some(export) = self.exports.find(name).cloned() else {
            let text = format!("export '{}' not present", name.escape_debug());
            return self.refuse(option, reply::ERR_UNKNOWN, &text);
        };
        let all = !set && queries.is_empty();
        let asked = |name: &str| all || queries.iter().any(|q| matches(name, q, set));
        let mut chosen = Vec::new();
        for (id, context) in export.numbered_contexts() {
            let name = context.name();
            if asked(&name) {
                let shown = if set { id } else { 0 };
                self.reply(option, reply::META_CONTEXT, &[&shown.to_be_bytes(), name.as_bytes()]);
                chosen.push(id);
            }
        }
        if set {
            self.meta = Some((export.name.clone(), chosen));
        }
        self.ack(option);
        Some(Done::Next)
    }
}

/// Whether a query means the context of this name: by all of it, or (only to list) by a beginning that ends in a colon.
fn matches(name: &str, query: &str, exact: bool) -> bool {
    name == query || (!exact && query.ends_with(':') && name.starts_with(query))
}

fn parse_info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u16()?;
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<_>>()?;
    fields.0.is_empty().then_some((name, wanted))
}

fn parse_queries(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u32()?;
    // Each query takes four bytes at least, so a wrong count ends soon.
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(fields.string()?);
    }
    fields.0.is_empty().then_some((name, queries))
}

#[cfg(test)]
mod tests;
