//! Why a file is not a valid `.whit` file.

use core::fmt;

use super::Section;

/// Why [`Model::open`](crate::Model::open) refused the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatError {
    /// The first bytes are not those of a `.whit` file.
    NotWhit,
    /// The file was made for another major version of the format.
    Version {
        /// Major version of the file.
        major: u16,
    },
    /// The file needs a feature or a required section that this reader doesn't know.
    UnknownFeature {
        /// The feature bits, or the section number.
        number: u64,
    },
    /// The file is shorter or longer than its header says.
    FileLength {
        /// Length stated in the header.
        stated: u64,
        /// Length of what was given.
        actual: u64,
    },
    /// A checksum doesn't match: the header and directory, or a section.
    Checksum {
        /// The section; `None` for header and directory.
        section: Option<Section>,
    },
    /// A section that programs need is absent.
    MissingSection(Section),
    /// A section stands twice in the directory.
    DuplicateSection(Section),
    /// A section's offset, length, alignment or record size is wrong.
    BadSection(Section),
    /// A record refers to something outside its section.
    OutOfBounds {
        /// Section that holds the record.
        section: Section,
        /// Index of the record.
        index: u32,
    },
    /// A record has a value that has no meaning.
    BadValue {
        /// Section that holds the record.
        section: Section,
        /// Index of the record.
        index: u32,
    },
    /// A total of the header contradicts the records.
    WrongTotal(&'static str),
    /// The bytes are not aligned to 8 in memory.
    Misaligned,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            FormatError::NotWhit => f.write_str("not a .whit file: the first bytes aren't WHIT"),
            FormatError::Version { major } => write!(
                f,
                "format version {major} is not the one this build reads ({}): convert the model \
                 again with the matching version of the tool",
                super::VERSION_MAJOR
            ),
            FormatError::UnknownFeature { number } => {
                write!(
                    f,
                    "the file needs feature or section {number:#x}, unknown to this build: update it"
                )
            }
            FormatError::FileLength { stated, actual } => {
                write!(
                    f,
                    "the header says {stated} bytes but there are {actual}: the file is damaged or cut"
                )
            }
            FormatError::Checksum { section: None } => f.write_str(
                "the checksum of the header and directory doesn't match: the file is damaged",
            ),
            FormatError::Checksum { section: Some(section) } => {
                write!(
                    f,
                    "the checksum of section {} doesn't match: the file is damaged",
                    section.name()
                )
            }
            FormatError::MissingSection(section) => {
                write!(f, "section {} is missing", section.name())
            }
            FormatError::DuplicateSection(section) => {
                write!(f, "section {} stands twice", section.name())
            }
            FormatError::BadSection(section) => {
                write!(f, "section {} has a bad offset, length or record size", section.name())
            }
            FormatError::OutOfBounds { section, index } => {
                write!(f, "record {index} of section {} points outside its bounds", section.name())
            }
            FormatError::BadValue { section, index } => {
                write!(
                    f,
                    "record {index} of section {} has a value without meaning",
                    section.name()
                )
            }
            FormatError::WrongTotal(what) => {
                write!(f, "the header's {what} contradicts the records")
            }
            FormatError::Misaligned => {
                f.write_str("the bytes must lie at a multiple of 8 in memory")
            }
        }
    }
}

impl core::error::Error for FormatError {}
