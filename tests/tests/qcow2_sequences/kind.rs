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

/// One kind of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) version: u32,
    pub(crate) cluster: u64,
    refcount_bits: u32,
    extended_l2: bool,
    pub(crate) data: Data,
    pub(crate) encrypted: bool,
    pub(crate) backing: Backing,
    lazy: bool,
}

impl Kind {
    fn exists(&self) -> bool {
        let v3_only = self.refcount_bits != 16 || self.extended_l2 || self.data != Data::Inside || self.lazy;
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
            (self.data != Data::Inside, ",data_file=data"),
            (self.data == Data::Raw, ",data_file_raw=on"),
            (self.encrypted, ",encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
        ];
        switches.into_iter().filter(|(on, _)| *on).for_each(|(_, text)| options.push_str(text));
        options
    }

    /// All features, each by the name of its place and its value.
    fn features(&self) -> [(usize, String); 8] {
        let texts = [
            self.version.to_string(),
            self.cluster.to_string(),
            self.refcount_bits.to_string(),
            self.extended_l2.to_string(),
            format!("{:?}", self.data),
            self.encrypted.to_string(),
            format!("{:?}", self.backing),
            self.lazy.to_string(),
        ];
        let mut places = 0..;
        texts.map(|text| (places.next().unwrap_or(0), text))
    }
}

fn pairs(kind: &Kind) -> Vec<[(usize, String); 2]> {
    let features = kind.features();
    let with_later = |i: usize| features[i + 1..].iter().map(move |b| (i, b));
    (0..features.len()).flat_map(with_later).map(|(i, b)| [features[i].clone(), b.clone()]).collect()
}

/// The kinds that are tried.
pub(crate) fn kinds() -> Vec<Kind> {
    let mut all = Vec::new();
    for version in [3, 2] {
        for cluster in [65536, 512, 4096, 2 << 20] {
            for refcount_bits in [16, 1, 8, 64] {
                for data in [Data::Inside, Data::External, Data::Raw] {
                    for backing in [Backing::None, Backing::Raw, Backing::Qcow2] {
                        for switches in 0..8 {
                            let [extended_l2, encrypted, lazy] = [1, 2, 4].map(|bit| switches & bit != 0);
                            all.push(Kind {
                                version,
                                cluster,
                                refcount_bits,
                                extended_l2,
                                data,
                                encrypted,
                                backing,
                                lazy,
                            });
                        }
                    }
                }
            }
        }
    }
    all.retain(Kind::exists);
    pairwise(all, pairs)
}
