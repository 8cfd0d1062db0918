//! The kinds of image: a choice in which every pair of features that go together occurs.

use tests::pairwise::pairwise;

/// Where guest data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    Inside,
    External,
    Raw,
}

/// What is below the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    None,
    Raw,
    Qcow2,
}

impl Backing {
    /// The format of what is below, or could be.
    pub(crate) fn format(self) -> &'static str {
        if self == Backing::Qcow2 { "qcow2" } else { "raw" }
    }
}

/// One kind of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    version: u32,
    pub(crate) cluster: u64,
    refcount_bits: u32,
    extended_l2: bool,
    pub(crate) data: Data,
    encrypted: bool,
    pub(crate) backing: Backing,
    lazy: bool,
    /// How compressed clusters are stored, if not with zlib.
    zstd: bool,
}

impl Kind {
    fn exists(&self) -> bool {
        let v3_only = self.refcount_bits != 16
            || self.extended_l2
            || self.data != Data::Inside
            || self.lazy
            || self.zstd;
        (self.version == 3 || !v3_only)
            && (!self.extended_l2 || self.cluster >= 16384)
            && (self.data != Data::Raw || self.backing == Backing::None)
            // A raw data file must be what the guest sees.
            && (self.data != Data::Raw || !self.encrypted)
            // Its tables would not fit.
            && (self.cluster != 512 || self.refcount_bits != 64 || !self.encrypted)
    }

    /// What `-o` takes.
    pub(crate) fn options(&self) -> String {
        let mut options = format!("cluster_size={}", self.cluster);
        if self.version == 2 {
            options.push_str(",compat=0.10");
        } else {
            options.push_str(&format!(",refcount_bits={}", self.refcount_bits));
        }
        let switches = [
            (self.extended_l2, ",extended_l2=on"),
            (self.lazy, ",lazy_refcounts=on"),
            (self.zstd, ",compression_type=zstd"),
            (self.data != Data::Inside, ",data_file=data"),
            (self.data == Data::Raw, ",data_file_raw=on"),
            (self.encrypted, ",encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
        ];
        switches.into_iter().filter(|(on, _)| *on).for_each(|(_, text)| options.push_str(text));
        options
    }

    /// Where the key is, on a command line.
    pub(crate) fn secret(&self) -> &'static str {
        if self.encrypted { "--object secret,id=s,file=key" } else { "" }
    }

    /// The image, as a command takes it.
    pub(crate) fn image(&self) -> String {
        if self.encrypted {
            format!("{} --image-opts driver=qcow2,file.filename=t,encrypt.key-secret=s", self.secret())
        } else {
            "-f qcow2 t".into()
        }
    }

    /// All features, each by the name of its place and its value.
    pub(crate) fn features(&self) -> [(&'static str, String); 9] {
        [
            ("version", self.version.to_string()),
            ("cluster", self.cluster.to_string()),
            ("refcount bits", self.refcount_bits.to_string()),
            ("extended L2", self.extended_l2.to_string()),
            ("data file", format!("{:?}", self.data)),
            ("encrypted", self.encrypted.to_string()),
            ("backing", format!("{:?}", self.backing)),
            ("lazy refcounts", self.lazy.to_string()),
            ("zstd", self.zstd.to_string()),
        ]
    }
}

/// Every two features of a kind.
pub(crate) fn pairs(kind: &Kind) -> Vec<[(&'static str, String); 2]> {
    let features = kind.features();
    let with_later = |i: usize| features[i + 1..].iter().map(move |b| (i, b));
    (0..features.len()).flat_map(with_later).map(|(i, b)| [features[i].clone(), b.clone()]).collect()
}

/// Every kind that exists.
pub(crate) fn all() -> Vec<Kind> {
    let mut all = Vec::new();
    for version in [3, 2] {
        for cluster in [65536, 512, 4096, 2 << 20] {
            for refcount_bits in [16, 1, 2, 4, 8, 32, 64] {
                for data in [Data::Inside, Data::External, Data::Raw] {
                    for backing in [Backing::None, Backing::Raw, Backing::Qcow2] {
                        for switches in 0..16 {
                            let [extended_l2, encrypted, lazy, zstd] =
                                [1, 2, 4, 8].map(|bit| switches & bit != 0);
                            all.push(Kind {
                                version,
                                cluster,
                                refcount_bits,
                                extended_l2,
                                data,
                                encrypted,
                                backing,
                                lazy,
                                zstd,
                            });
                        }
                    }
                }
            }
        }
    }
    all.retain(Kind::exists);
    all
}

/// The kinds that are tried.
pub(crate) fn kinds() -> Vec<Kind> {
    pairwise(all(), pairs)
}
