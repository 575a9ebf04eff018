//! YAML, and JSON as a part of it, to trees.
//!
//! Built from the events of the parser under `serde-saphyr`. What comes in may be hostile: depth, size, and what
//! aliases make of it are limited. Plain scalars are read as YAML 1.2's core schema has it: `yes` and `on` are text.
//! Merge keys (`<<`) are honoured.
//!
//! Deliberately absent: tags other than those of the core schema, keys that are not scalars.

use std::{collections::HashMap, rc::Rc};

use serde_json::Number;
use serde_saphyr::granit_parser::{ErrorKind, Event, Marker, Options, Parser, ScalarStyle, Span, Tag};

use super::{
    finding::{FieldPath, Step},
    tree::{Entry, Fault, MAX_DEPTH, MAX_DOCUMENT, NODE_WEIGHT, Node, Value, load_json, too_deep},
};

/// The bytes that a text with several documents may have.
pub(super) const MAX_TEXT: usize = 16 << 20;
/// What a document may weigh with its aliases expanded.
const MAX_WEIGHT: usize = 8 << 20;
/// How many faults of a text are told.
const MAX_FAULTS: usize = 64;

/// Reads a text: its documents, empty ones left out, and what is wrong with it. With faults, the documents are not
/// complete.
pub(super) fn load(text: &str) -> (Vec<Node>, Vec<Fault>) {
    if text.len() > MAX_TEXT {
        let reason = format!("the text has {} bytes, more than {MAX_TEXT}", text.len());
        return (Vec::new(), vec![Fault { line: 0, column: 0, field: FieldPath::root(), reason }]);
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH + 1;
    options.block_nesting_limit = MAX_DEPTH + 1;
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut loader = Loader::default();
    while let Some(next) = parser.next_event() {
        let step = match next {
            Ok((event, span)) => loader.event(event, &span),
            Err(error) => {
                let reason = match error.kind() {
                    ErrorKind::RecursionLimitExceeded => too_deep(),
                    _ => error.info(),
                };
                Err(fault(error.marker(), FieldPath::root(), reason))
            }
        };
        if let Err(fault) = step {
            loader.faults.push(fault);
            break;
        }
        if loader.faults.len() >= MAX_FAULTS {
            break;
        }
    }
    // JSON allows what YAML does not: pairs of surrogates in escapes, long keys. Where both refuse a text, what YAML
    // says of it has more places.
    if !loader.faults.is_empty()
        && text.trim_start().starts_with(['{', '['])
        && let Ok(node) = load_json(text, MAX_DOCUMENT)
    {
        return (vec![node], Vec::new());
    }
    (loader.documents, loader.faults)
}

fn fault(at: &Marker, field: FieldPath, reason: impl Into<String>) -> Fault {
    let (line, column) = position(at);
    Fault { line, column, field, reason: reason.into() }
}

fn position(at: &Marker) -> (u32, u32) {
    (u32::try_from(at.line()).unwrap_or(u32::MAX), u32::try_from(at.col() + 1).unwrap_or(u32::MAX))
}

/// A list or map that is not at its end.
struct Frame {
    line: u32,
    column: u32,
    anchor: usize,
    kind: FrameKind,
}

enum FrameKind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, seen: HashMap<String, u32>, merges: Vec<Node>, key: Option<Key> },
}

struct Key {
    text: String,
    line: u32,
    column: u32,
    merge: bool,
}

/// A value that aliases refer to.
struct Anchored {
    node: Node,
    weight: usize,
    height: usize,
}

#[derive(Default)]
struct Loader {
    documents: Vec<Node>,
    faults: Vec<Fault>,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Rc<Anchored>>,
    weight: usize,
    begin: usize,
}

impl Loader {
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Fault> {
        let (line, column) = position(&span.start);
        let end = span.end.byte_offset().unwrap_or_else(|| span.end.index());
        if end.saturating_sub(self.begin) > MAX_DOCUMENT {
            return Err(self.fault(span, format!("the document has more than {MAX_DOCUMENT} bytes")));
        }
        match event {
            Event::DocumentStart(..) => {
                self.begin = span.start.byte_offset().unwrap_or_else(|| span.start.index());
                self.anchors.clear();
                self.weight = 0;
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value = match scalar(&text, style, tag.as_deref()) {
                    Ok(value) => value,
                    Err(reason) => return Err(self.fault(span, reason)),
                };
                if self.wants_key() {
                    self.grow(text.len(), span)?;
                    let merge = plain && text == "<<";
                    self.set_key(Key { text: text.into_owned(), line, column, merge });
                    return Ok(());
                }
                self.grow(NODE_WEIGHT + text.len(), span)?;
                self.finish(Node { line, column, value }, anchor, span)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(FrameKind::List(Vec::new()), anchor, tag.as_deref(), "seq", span)
            }
            Event::MappingStart(_, anchor, tag) => {
                let (entries, seen, merges) = Default::default();
                self.open(
                    FrameKind::Map { entries, seen, merges, key: None },
                    anchor,
                    tag.as_deref(),
                    "map",
                    span,
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => {
                let Some(anchored) = self.anchors.get(&id).cloned() else {
                    return Err(
                        self.fault(span, "an alias cannot be a part of what it stands for".to_owned())
                    );
                };
                if self.frames.len() + anchored.height > MAX_DEPTH {
                    return Err(self.fault(span, too_deep()));
                }
                self.grow(anchored.weight, span)?;
                if self.wants_key() {
                    let Some(text) = anchored.node.text().map(str::to_owned) else {
                        return Err(self.fault(span, "a key must be text".to_owned()));
                    };
                    self.set_key(Key { text, line, column, merge: false });
                    return Ok(());
                }
                self.finish(Node { line, column, ..anchored.node.clone() }, 0, span)
            }
            _ => Ok(()),
        }
    }

    fn fault(&self, span: &Span, reason: String) -> Fault {
        fault(&span.start, self.path(), reason)
    }

    /// The field that is being read.
    fn path(&self) -> FieldPath {
        let steps = self.frames.iter().filter_map(|frame| match &frame.kind {
            FrameKind::List(items) => Some(Step::Index(items.len())),
            FrameKind::Map { key, .. } => key.as_ref().map(|key| Step::Key(key.text.clone())),
        });
        steps.collect()
    }

    fn grow(&mut self, weight: usize, span: &Span) -> Result<(), Fault> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight > MAX_WEIGHT {
            return Err(
                self.fault(span, "the document holds too many values, or aliases make it so".to_owned())
            );
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame { kind: FrameKind::Map { key: None, .. }, .. }))
    }

    fn set_key(&mut self, new: Key) {
        if let Some(Frame { kind: FrameKind::Map { key, .. }, .. }) = self.frames.last_mut() {
            *key = Some(new);
        }
    }

    fn open(
        &mut self,
        kind: FrameKind,
        anchor: usize,
        tag: Option<&Tag>,
        core: &str,
        span: &Span,
    ) -> Result<(), Fault> {
        if tag.is_some_and(|tag| tag.core_suffix() != Some(core)) {
            return Err(self.fault(span, NO_TAGS.to_owned()));
        }
        if self.wants_key() {
            return Err(self.fault(span, "a key must be text".to_owned()));
        }
        if self.frames.len() >= MAX_DEPTH {
            return Err(self.fault(span, too_deep()));
        }
        self.grow(NODE_WEIGHT, span)?;
        let (line, column) = position(&span.start);
        self.frames.push(Frame { line, column, anchor, kind });
        Ok(())
    }

    fn close(&mut self, span: &Span) -> Result<(), Fault> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let value = match frame.kind {
            FrameKind::List(items) => Value::List(items),
            FrameKind::Map { mut entries, mut seen, merges, .. } => {
                // What a map says itself goes before what is merged into it, and earlier ones before later ones.
                for entry in merges.iter().flat_map(Node::entries) {
                    if !seen.contains_key(&entry.key) {
                        seen.insert(entry.key.clone(), entry.line);
                        entries.push(entry.clone());
                    }
                }
                Value::Map(entries)
            }
        };
        self.finish(Node { line: frame.line, column: frame.column, value }, frame.anchor, span)
    }

    /// Puts a complete value where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, span: &Span) -> Result<(), Fault> {
        if anchor != 0 {
            let (weight, height) = (node.weight(), node.height());
            self.grow(weight, span)?;
            self.anchors.insert(anchor, Rc::new(Anchored { node: node.clone(), weight, height }));
        }
        let path = self.path();
        let Some(frame) = self.frames.last_mut() else {
            if node.value != Value::Null {
                self.documents.push(node);
            }
            return Ok(());
        };
        match &mut frame.kind {
            FrameKind::List(items) => items.push(node),
            FrameKind::Map { entries, seen, merges, key } => {
                let Some(key) = key.take() else { return Ok(()) };
                if key.merge {
                    match node.value {
                        Value::Map(_) => merges.push(node),
                        Value::List(items)
                            if items.iter().all(|item| matches!(item.value, Value::Map(_))) =>
                        {
                            merges.extend(items);
                        }
                        _ => {
                            let reason = "only keys with their values can be merged".to_owned();
                            self.faults.push(Fault {
                                line: key.line,
                                column: key.column,
                                field: path,
                                reason,
                            });
                        }
                    }
                } else if let Some(first) = seen.get(&key.text) {
                    let reason = format!("the key is there twice; it stands in line {first} already");
                    self.faults.push(Fault { line: key.line, column: key.column, field: path, reason });
                } else {
                    seen.insert(key.text.clone(), key.line);
                    entries.push(Entry { key: key.text, line: key.line, column: key.column, node });
                }
            }
        }
        Ok(())
    }
}

const NO_TAGS: &str = "this tag is not understood";

/// A scalar's value by the core schema.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    match tag.map(Tag::core_suffix) {
        Some(Some("str")) => Ok(Value::Text(text.to_owned())),
        None if style != ScalarStyle::Plain => Ok(Value::Text(text.to_owned())),
        None | Some(Some("null" | "bool" | "int" | "float")) => Ok(plain(text)),
        Some(_) => Err(NO_TAGS.to_owned()),
    }
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    // `007` is 7 in YAML 1.2 and in YAML 1.1 octal: text is what nobody can take for a number by mistake.
    let unsigned = text.trim_start_matches(['-', '+']);
    let leading_zero = unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.starts_with("0.");
    let numeric = unsigned.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    if numeric && !leading_zero {
        if let Ok(number) = text.parse::<i64>() {
            return Value::Number(number.into());
        }
        if let Ok(number) = text.parse::<u64>() {
            return Value::Number(number.into());
        }
        if let Some(number) = text.parse::<f64>().ok().and_then(Number::from_f64) {
            return Value::Number(number);
        }
    }
    Value::Text(text.to_owned())
}
