//! The one place that writes for the caller: results to standard output, notes to standard error.
//!
//! A result is either a table for people or a document for programs; which one is decided here by `-o`, so
//! that a command hands over both forms and does not care. Deliberately absent: what the tables say.

pub(crate) mod condition;
pub(crate) mod table;
pub(crate) mod text;

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use serde_json::Value;

use self::table::Table;
use crate::failure::{Exit, Failure};

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For people, with more columns.
    Wide,
    /// For programs: the contract's messages as JSON.
    Json,
    /// For programs: the same as YAML.
    Yaml,
}

impl Format {
    /// Whether people read it.
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

type Sink = Arc<Mutex<Box<dyn Write + Send>>>;

/// Where results and notes go. A clone writes to the same places.
#[derive(Clone)]
pub(crate) struct Output {
    results: Sink,
    notes: Sink,
    /// How results are written.
    pub(crate) format: Format,
    colour: bool,
    colour_notes: bool,
}

impl Output {
    /// Standard output and standard error. Colours only on a terminal, and never with `NO_COLOR`.
    pub(crate) fn standard(format: Format, no_color: bool) -> Self {
        Self {
            results: Arc::new(Mutex::new(Box::new(io::stdout()))),
            notes: Arc::new(Mutex::new(Box::new(io::stderr()))),
            format,
            colour: !no_color && io::stdout().is_terminal(),
            colour_notes: !no_color && io::stderr().is_terminal(),
        }
    }

    /// Whether colours are written to standard output.
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// Whether colours are written to standard error.
    pub(crate) fn colour_notes(&self) -> bool {
        self.colour_notes
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// Nobody reads it any more, or the disk is full.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        Ok(write(&self.results, text)?)
    }

    /// Writes one line.
    ///
    /// # Errors
    /// As for [`Output::text`].
    pub(crate) fn line(&self, line: impl AsRef<str>) -> Result<(), Failure> {
        self.text(&format!("{}\n", line.as_ref()))
    }

    /// Writes a line for people who watch, to standard error. There is nobody to tell when that fails.
    pub(crate) fn note(&self, line: impl AsRef<str>) {
        let _ = write(&self.notes, &format!("{}\n", line.as_ref()));
    }

    /// Says what went wrong, and the way out.
    pub(crate) fn failure(&self, failure: &Failure) {
        let word = table::paint("error:", Some(table::Colour::Red), self.colour_notes);
        self.note(format!("{word} {failure}"));
        if let Some(way_out) = &failure.way_out {
            self.note(format!("  {way_out}"));
        }
    }

    /// Writes a result: the table for people, or the document for programs.
    ///
    /// # Errors
    /// As for [`Output::text`].
    pub(crate) fn result(
        &self,
        document: &impl Serialize,
        table: impl FnOnce(bool) -> Table,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide => {
                let table = table(self.format == Format::Wide);
                self.text(&table.render(self.colour))
            }
            Format::Json | Format::Yaml => self.document(document),
        }
    }

    /// Writes a document for programs; a message's lists are present even where they are empty.
    ///
    /// # Errors
    /// As for [`Output::text`].
    pub(crate) fn document(&self, document: &impl Serialize) -> Result<(), Failure> {
        self.text(&match self.format {
            Format::Yaml => yaml(&to_value(document)?)?,
            _ => format!("{:#}\n", to_value(document)?),
        })
    }

    /// Writes one document of a stream: a line of JSON, or a YAML document.
    ///
    /// # Errors
    /// As for [`Output::text`].
    pub(crate) fn streamed(&self, document: &impl Serialize) -> Result<(), Failure> {
        self.text(&match self.format {
            Format::Yaml => format!("---\n{}", yaml(&to_value(document)?)?),
            _ => format!("{}\n", to_value(document)?),
        })
    }
}

/// A list response with `list` present even where it is empty, so that programs can iterate over it blindly.
#[derive(Serialize)]
pub(crate) struct Listed<'a, M> {
    #[serde(flatten)]
    message: &'a M,
    #[serde(flatten)]
    empty: Option<Value>,
}

impl<'a, M> Listed<'a, M> {
    /// `list` is the message's field, `length` its length.
    pub(crate) fn new(message: &'a M, list: &str, length: usize) -> Self {
        Self { message, empty: (length == 0).then(|| serde_json::json!({ list: [] })) }
    }
}

fn to_value(document: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(document)
        .map_err(|error| Failure::new(Exit::Failed, format!("the answer cannot be written as JSON: {error}")))
}

fn yaml(value: &Value) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(value).map_err(|error| {
        Failure::new(Exit::Failed, format!("the answer cannot be written as YAML: {error}"))
    })?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn write(sink: &Sink, text: &str) -> io::Result<()> {
    // A poisoned lock is a panic elsewhere while writing; the text is still wanted.
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    sink.write_all(text.as_bytes())?;
    sink.flush()
}
