//! What lasts from one command to the next: the open image and the requests in flight.

use crate::args::Words;
use crate::command::{self, CommandRow, Failure, Needs};
use crate::pending::{Notices, Pending};
use block::buffer::Buffer;
use block::graph::{self, CacheMode, Env, OpenFlags, Reopen, Source};
use block::tool::Out;
use block::{Error, Image, Kind, Options, Result, Tell};
use secret::Registry;
use std::sync::Arc;

/// A session: see the module documentation.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// Where it prints.
    pub(crate) out: &'a Out,
    /// Whether names of images are option strings.
    pub(crate) image_opts: bool,
    pending: Pending,
    notices: Arc<Notices>,
    objects: &'a Registry,
    misalign: bool,
    image: Option<Image>,
    quit: bool,
}

/// How an image is to be opened.
#[derive(Debug, Clone)]
pub(crate) struct OpenArgs {
    /// Its name or options.
    pub(crate) source: Source,
    /// More options, which may be all there is.
    pub(crate) options: Options,
    /// The driver.
    pub(crate) format: Option<String>,
    /// Without the right to write.
    pub(crate) read_only: bool,
    /// Write to a throw-away overlay.
    pub(crate) snapshot: bool,
    /// Keep what is read from the backing file.
    pub(crate) copy_on_read: bool,
    /// Others may do anything to the file meanwhile.
    pub(crate) force_share: bool,
    /// The longest that unlocking may take.
    pub(crate) max_kdf_seconds: u32,
    /// The most memory that unlocking may take, in KiB.
    pub(crate) max_kdf_memory: u64,
    cache: CacheMode,
    discard: bool,
    native_aio: bool,
}

impl Default for OpenArgs {
    fn default() -> Self {
        OpenArgs {
            source: Source::Options(String::new()),
            options: Options::new(),
            format: None,
            read_only: false,
            snapshot: false,
            copy_on_read: false,
            force_share: false,
            max_kdf_seconds: 0,
            max_kdf_memory: 0,
            cache: CacheMode { write: block::WriteCache::Through, ..CacheMode::default() },
            discard: true,
            native_aio: false,
        }
    }
}

impl OpenArgs {
    /// Sets the cache mode by its name.
    ///
    /// # Errors
    /// There is no such mode.
    pub(crate) fn set_cache(&mut self, name: &str) -> Result<()> {
        self.cache = cache_mode(name)?;
        Ok(())
    }

    /// Sets what happens to discards.
    ///
    /// # Errors
    /// There is no such mode.
    pub(crate) fn set_discard(&mut self, name: &str) -> Result<()> {
        self.discard = match name {
            "ignore" | "off" => false,
            "unmap" | "on" => true,
            _ => return Err(Error::invalid(format!("Invalid discard option: {name}"))),
        };
        Ok(())
    }

    /// Sets how requests reach the kernel, where that is given.
    ///
    /// # Errors
    /// There is no such mode.
    pub(crate) fn set_aio(&mut self, name: Option<&str>) -> Result<()> {
        self.native_aio = match name {
            Some("native") => true,
            None | Some("threads" | "io_uring") => false,
            Some(name) => return Err(Error::invalid(format!("Invalid aio option: {name}"))),
        };
        Ok(())
    }

    fn flags(&self) -> OpenFlags {
        OpenFlags {
            writable: !self.read_only,
            cache: self.cache,
            discard: self.discard,
            native_aio: self.native_aio,
            force_share: self.force_share,
            copy_on_read: self.copy_on_read,
            max_kdf_seconds: self.max_kdf_seconds,
            max_kdf_memory: self.max_kdf_memory,
            ..OpenFlags::default()
        }
    }
}

/// The cache mode of the given name.
///
/// # Errors
/// There is no such mode.
pub(crate) fn cache_mode(name: &str) -> Result<CacheMode> {
    CacheMode::parse(name).ok_or_else(|| Error::invalid(format!("Invalid cache option: {name}")))
}

impl<'a> Session<'a> {
    /// A session without an open image.
    pub(crate) fn new(out: &'a Out, objects: &'a Registry, image_opts: bool, misalign: bool) -> Self {
        let (pending, notices) = Default::default();
        Session { out, image_opts, pending, notices, objects, misalign, image: None, quit: false }
    }

    /// Opens an image.
    ///
    /// # Errors
    /// One is open already, or `can't open…` with the cause.
    pub(crate) fn open(&mut self, args: &OpenArgs) -> Result<()> {
        if self.image.is_some() {
            return Err(Error::invalid("file open already, try 'help close'"));
        }
        let opened = self.open_graph(args);
        let image = opened.map_err(|e| match &args.source {
            Source::Name(name) => e.context(format!("can't open device {name}")),
            Source::Options(_) => e.context("can't open"),
        })?;
        self.image = Some(image);
        Ok(())
    }

    fn open_graph(&self, args: &OpenArgs) -> Result<Image> {
        let (name, mut options) = args.source.resolve()?;
        options.overlay(args.options.clone())?;
        if let Some(format) = &args.format {
            options.set("driver", format.as_str())?;
        }
        let open = if args.snapshot { formats::throwaway::open } else { graph::open_tree };
        open(self.env(), name.as_deref(), options, args.flags())
    }

    /// Drivers and objects, for opening images.
    pub(crate) fn env(&self) -> Env<'a> {
        Env { drivers: formats::DRIVERS, objects: self.objects }
    }

    /// The open image.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn image(&self) -> Result<&Image, Failure> {
        self.image.as_ref().ok_or_else(|| Failure::Complaint("no file open, try 'help open'".into()))
    }

    /// Changes how the image is open, when all requests have finished.
    ///
    /// # Errors
    /// No image is open, or what cannot be changed.
    pub(crate) fn reopen(&mut self, change: Reopen) -> Result<(), Failure> {
        self.image()?;
        self.finish_pending();
        let Some(image) = &mut self.image else { return Ok(()) };
        let cache = change.cache;
        graph::reopen(Env { drivers: formats::DRIVERS, objects: self.objects }, image.node(), change)?;
        if let Some(cache) = cache {
            image.set_write_cache(cache.write);
        }
        Ok(())
    }

    /// Starts a request on the image that does not hold up the commands after it; `run` gives its report.
    ///
    /// # Errors
    /// No image is open.
    pub(crate) fn submit(
        &mut self,
        run: impl FnOnce(&Image) -> String + Send + 'static,
    ) -> Result<(), Failure> {
        let image = self.image()?.clone();
        self.pending.submit(move || run(&image));
        Ok(())
    }

    /// Waits for all requests that were submitted.
    pub(crate) fn finish_pending(&mut self) {
        self.pending.finish(self.out, &self.notices);
    }

    /// Where drivers can leave what is to be printed.
    pub(crate) fn notices(&self) -> Tell {
        let notices = Arc::clone(&self.notices);
        Arc::new(move |line| notices.leave(&line))
    }

    /// Prints what drivers had to say.
    pub(crate) fn tell_notices(&self) {
        self.out.print(self.notices.take());
    }

    /// Closes the image, if one is open, when all requests have finished.
    ///
    /// # Errors
    /// What could not be written back.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.finish_pending();
        self.image.take().map_or(Ok(()), Image::close)
    }

    /// Ends the session; whether everything could be written back.
    pub(crate) fn finish(mut self) -> bool {
        let closed = self.close();
        if let Err(e) = &closed {
            self.out.error(e);
        }
        closed.is_ok()
    }

    /// Makes this the last command.
    pub(crate) fn quit(&mut self) {
        self.quit = true;
    }

    /// Whether the session is at its end.
    pub(crate) fn has_quit(&self) -> bool {
        self.quit
    }

    /// A buffer for a request of `len` bytes, all of them `fill`.
    pub(crate) fn buffer(&self, len: usize, fill: u8) -> IoBuffer {
        let start = if self.misalign { MISALIGNMENT } else { 0 };
        let mut buffer = Buffer::zeroed(len + start);
        if fill != 0 {
            buffer[start..].fill(fill);
        }
        IoBuffer { buffer, start }
    }

    /// Runs one command line; whether it did what it was asked to.
    pub(crate) fn run(&mut self, line: &str) -> bool {
        let mut words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return true;
        }
        let name = words.remove(0);
        let Some(row) = command::find(name) else {
            self.out.to_stderr(&format!("command \"{name}\" not found\n"));
            return false;
        };
        let outcome = self
            .check(row, name, words.len())
            .and_then(|()| (row.run)(self, Words::new(name, words, row.options)));
        self.pending.collect(self.out, &self.notices);
        outcome.map_err(|failure| self.tell(row, name, failure)).is_ok()
    }

    /// Whether the command can be run at all.
    fn check(&self, row: &CommandRow, name: &str, words: usize) -> Result<(), Failure> {
        if row.needs != Needs::Nothing {
            self.image()?;
        }
        row.words.check(name, words)?;
        if row.needs == Needs::Writable && self.image()?.is_read_only() {
            return Err(Error::new(Kind::ReadOnly, "Block node is read-only").into());
        }
        Ok(())
    }

    fn tell(&self, row: &CommandRow, name: &str, failure: Failure) {
        match failure {
            Failure::Told => {}
            Failure::Said(text) => self.out.line(text),
            Failure::Complaint(text) => self.out.to_stderr(&format!("{text}\n")),
            Failure::Error(e) => self.out.error(&e),
            Failure::Usage => self.out.line(row.usage(name)),
            Failure::Option(text) => {
                self.out.to_stderr(&format!("{text}\n"));
                self.out.line(row.usage(name));
            }
        }
    }
}

/// How far off a page `-m` puts buffers, in bytes.
const MISALIGNMENT: usize = 16;

/// A buffer for one request.
#[derive(Debug)]
pub(crate) struct IoBuffer {
    buffer: Buffer,
    start: usize,
}

impl std::ops::Deref for IoBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

impl std::ops::DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..]
    }
}
