//! Tables for people: aligned columns without borders.
//!
//! What registrants wrote about themselves ends up here, so control characters are shown as `?` and cannot
//! reach the terminal. Deliberately absent: wrapping; a wide terminal or `-o json` is the answer to that.

use std::fmt::Write as _;

/// The colours that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Works.
    Green,
    /// Is on its way to something else.
    Yellow,
    /// Does not work.
    Red,
    /// Matters less.
    Grey,
}

impl Colour {
    fn code(self) -> u8 {
        match self {
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Red => 31,
            Self::Grey => 90,
        }
    }
}

/// The text in that colour, where colours are wanted.
pub(crate) fn paint(text: &str, colour: Option<Colour>, wanted: bool) -> String {
    match colour.filter(|_| wanted) {
        Some(colour) => format!("\u{1b}[{}m{text}\u{1b}[0m", colour.code()),
        None => text.to_owned(),
    }
}

/// The text without characters that would steer a terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    /// A cell in a colour; an empty text becomes `-`.
    pub(crate) fn coloured(text: impl AsRef<str>, colour: Option<Colour>) -> Self {
        let text = text.as_ref();
        Self { text: if text.is_empty() { "-".to_owned() } else { harmless(text) }, colour }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::coloured(text, None)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::coloured(text, None)
    }
}

/// Rows under a header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// A table of names and values, without a header.
    pub(crate) fn of_pairs(pairs: Vec<(&'static str, Cell)>) -> Self {
        let row = |(name, value)| vec![Cell::coloured(name, Some(Colour::Grey)), value];
        Self { header: Vec::new(), rows: pairs.into_iter().map(row).collect() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as text; nothing at all where it has no rows.
    pub(crate) fn render(&self, colour: bool) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let header: Vec<Cell> =
            self.header.iter().map(|name| Cell::coloured(name, Some(Colour::Grey))).collect();
        let rows: Vec<&Vec<Cell>> =
            Some(&header).filter(|header| !header.is_empty()).into_iter().chain(&self.rows).collect();
        let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| length(&cell.text)).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in rows {
            for (at, cell) in row.iter().enumerate() {
                text.push_str(&paint(&cell.text, cell.colour, colour));
                if at + 1 < row.len() {
                    let _ = write!(text, "{:1$}", "", widths[at] - length(&cell.text) + 2);
                }
            }
            text.push('\n');
        }
        text
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["a-long-name".into(), Cell::coloured("up", Some(Colour::Green))]);
        table.row(vec!["b".into(), "".into()]);
        assert_eq!(table.render(false), "NAME         STATE\na-long-name  up\nb            -\n");
        let coloured = table.render(true);
        assert!(coloured.contains("a-long-name  \u{1b}[32mup\u{1b}[0m\n"), "{coloured:?}");
    }

    #[test]
    fn what_registrants_wrote_cannot_steer_the_terminal() {
        let mut table = Table::new(&["REASON"]);
        table.row(vec!["\u{1b}[2Jgone\nline".into()]);
        assert_eq!(table.render(true).lines().nth(1), Some("?[2Jgone?line"));
    }
}
