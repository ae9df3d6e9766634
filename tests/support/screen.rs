//! What a terminal shows that got these bytes: as much of ECMA-48 as programs draw their screens with.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cli::Who;
use crate::terminal::{Terminal, until};

/// A screen of this many rows and columns.
#[derive(Debug)]
struct Screen {
    cells: Vec<Vec<char>>,
    columns: usize,
    row: usize,
    column: usize,
    /// First and last row of what scrolls.
    region: (usize, usize),
    /// The beginning of a character or sequence.
    pending: Vec<u8>,
}

impl Screen {
    /// An empty one.
    fn new(rows: usize, columns: usize) -> Self {
        Self {
            cells: vec![vec![' '; columns]; rows],
            columns,
            row: 0,
            column: 0,
            region: (0, rows - 1),
            pending: Vec::new(),
        }
    }

    /// Shows what was printed; gives what a terminal says to it.
    fn show(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend(bytes);
        let pending = std::mem::take(&mut self.pending);
        let whole = match std::str::from_utf8(&pending) {
            Ok(_) => pending.len(),
            Err(error) => error.valid_up_to(),
        };
        let mut text = std::str::from_utf8(&pending[..whole]).unwrap();
        let mut answers = String::new();
        while let Some(c) = text.chars().next() {
            let length = match c {
                '\x1b' => sequence_length(text),
                _ => Some(c.len_utf8()),
            };
            let Some((unit, rest)) = length.and_then(|length| text.split_at_checked(length)) else {
                break;
            };
            text = rest;
            match c {
                '\x1b' => {
                    answers += &self.answer(unit);
                    self.sequence(unit);
                }
                '\r' => self.column = 0,
                '\n' => self.down(),
                '\x08' => self.column = self.column.saturating_sub(1),
                c if c.is_control() => {}
                c => self.print(c),
            }
        }
        self.pending = [text.as_bytes(), &pending[whole..]].concat();
        answers.into_bytes()
    }

    fn answer(&self, asked: &str) -> String {
        match asked {
            "\x1b[5n" => "\x1b[0n".to_owned(),
            "\x1b[6n" => format!("\x1b[{};{}R", self.row + 1, self.column + 1),
            "\x1b[c" => "\x1b[?62;22c".to_owned(),
            "\x1b]10;?\x1b\\" => "\x1b]10;rgb:ffff/ffff/ffff\x1b\\".to_owned(),
            "\x1b]11;?\x1b\\" => "\x1b]11;rgb:0000/0000/0000\x1b\\".to_owned(),
            _ => String::new(),
        }
    }

    /// As xterm does it: what does not fit is cut off to the right, and above the cursor before below it.
    fn resize(&mut self, rows: usize, columns: usize) {
        let above = (self.row + 1).saturating_sub(rows);
        self.cells.drain(..above);
        self.cells.resize(rows, Vec::new());
        for row in &mut self.cells {
            row.resize(columns, ' ');
        }
        self.row -= above;
        self.columns = columns;
        self.region = (0, rows - 1);
    }

    fn lines(&self) -> Vec<String> {
        let line = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned();
        self.cells.iter().map(line).collect()
    }

    fn print(&mut self, c: char) {
        if self.column >= self.columns {
            self.column = 0;
            self.down();
        }
        self.cells[self.row][self.column] = c;
        self.column += 1;
    }

    fn down(&mut self) {
        if self.row == self.region.1 {
            self.scroll(self.region.0, 1);
        } else if self.row + 1 < self.cells.len() {
            self.row += 1;
        }
    }

    fn up(&mut self) {
        if self.row == self.region.0 {
            self.unscroll(self.region.0, 1);
        } else {
            self.row = self.row.saturating_sub(1);
        }
    }

    /// Rows go up, from this one on.
    fn scroll(&mut self, top: usize, by: usize) {
        for _ in 0..by.min(self.cells.len()) {
            self.cells.remove(top);
            self.cells.insert(self.region.1, vec![' '; self.columns]);
        }
    }

    /// Rows go down, from this one on.
    fn unscroll(&mut self, top: usize, by: usize) {
        for _ in 0..by.min(self.cells.len()) {
            self.cells.remove(self.region.1);
            self.cells.insert(top, vec![' '; self.columns]);
        }
    }

    fn sequence(&mut self, whole: &str) {
        match whole.as_bytes() {
            [_, b'[', .., end] => {
                let text = whole.get(2..whole.len() - 1).unwrap_or_default();
                self.control(text, char::from(*end));
            }
            [_, b'M'] => self.up(),
            [_, b'D'] => self.down(),
            _ => {}
        }
    }

    fn control(&mut self, text: &str, end: char) {
        let numbers: Vec<usize> = text
            .split(';')
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        let number = |nth: usize| numbers.get(nth).copied().unwrap_or(0);
        let count = number(0).max(1);
        let last = self.cells.len() - 1;
        match end {
            'H' | 'f' => {
                self.row = (count - 1).min(last);
                self.column = (number(1).max(1) - 1).min(self.columns - 1);
            }
            'A' => self.row = self.row.saturating_sub(count),
            'B' => self.row = (self.row + count).min(last),
            'C' => self.column = (self.column + count).min(self.columns - 1),
            'D' => self.column = self.column.saturating_sub(count),
            'G' => self.column = (count - 1).min(self.columns - 1),
            'd' => self.row = (count - 1).min(last),
            'K' => {
                let column = self.column.min(self.columns);
                let (from, to) = match number(0) {
                    0 => (column, self.columns),
                    1 => (0, (column + 1).min(self.columns)),
                    _ => (0, self.columns),
                };
                self.cells[self.row][from..to].fill(' ');
            }
            'J' => {
                let column = self.column.min(self.columns);
                match number(0) {
                    0 => {
                        self.cells[self.row][column..].fill(' ');
                        self.blank(self.row + 1, last + 1);
                    }
                    1 => {
                        self.cells[self.row][..(column + 1).min(self.columns)].fill(' ');
                        self.blank(0, self.row);
                    }
                    _ => self.blank(0, last + 1),
                }
            }
            'L' => self.unscroll(self.row, count),
            'M' => self.scroll(self.row, count),
            'S' => self.scroll(self.region.0, count),
            'T' => self.unscroll(self.region.0, count),
            'r' => {
                let bottom = if number(1) == 0 { last } else { number(1) - 1 };
                self.region = ((count - 1).min(last), bottom.min(last));
                (self.row, self.column) = (0, 0);
            }
            // The other screen, and back.
            'h' | 'l' if text == "?1049" => self.blank(0, last + 1),
            _ => {}
        }
    }

    fn blank(&mut self, from: usize, to: usize) {
        for row in &mut self.cells[from..to] {
            row.fill(' ');
        }
    }
}

/// How long the sequence is with which a text begins, in bytes; `None`: longer than the text.
fn sequence_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes.get(1)? {
        b'[' => {
            let parameters = bytes.get(2..)?;
            let last = parameters.iter().position(|b| (b'@'..=b'~').contains(b))?;
            Some(last + 3)
        }
        b']' | b'P' | b'_' | b'^' => {
            let ends = [("\x07", 1), ("\x1b\\", 2)];
            let found = ends.map(|(end, length)| Some(text.get(2..)?.find(end)? + 2 + length));
            found.into_iter().flatten().min()
        }
        b'(' | b')' | b'#' => Some(3),
        _ => Some(2),
    }
}

/// A person at a terminal that shows all that is drawn, and answers what programs ask it: some end without.
#[derive(Debug)]
pub(crate) struct Person {
    pub(crate) terminal: Terminal,
    screen: Arc<Mutex<Screen>>,
}

impl Person {
    /// In front of this program, as root.
    pub(crate) fn at(program: &Command, (rows, columns): (u16, u16)) -> Self {
        let screen = Screen::new(rows.into(), columns.into());
        let screen = Arc::new(Mutex::new(screen));
        let shared = Arc::clone(&screen);
        let answer = move |bytes: &[u8]| shared.lock().unwrap().show(bytes);
        let terminal = Terminal::answering(program, Who::Root, (rows, columns), answer);
        Self { terminal, screen }
    }

    /// Changes the terminal's size, and waits until this is drawn anew.
    #[track_caller]
    pub(crate) fn resize(&self, rows: u16, columns: u16, drawn: &str) {
        let before = {
            let mut screen = self.screen.lock().unwrap();
            screen.resize(rows.into(), columns.into());
            self.terminal.shown().len()
        };
        self.terminal.resize(rows, columns);
        until("it is drawn anew", || {
            let shown = self.terminal.shown();
            shown.get(before..).is_some_and(|new| new.contains(drawn))
        });
    }

    /// The rows of the screen, without the blanks at their ends.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.screen.lock().unwrap().lines()
    }

    /// Waits until each of these words is somewhere on the screen.
    #[track_caller]
    pub(crate) fn sees(&self, words: &[&str]) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let lines = self.lines();
            let sees = |word: &&str| lines.iter().any(|line| line.contains(word));
            if words.iter().all(sees) {
                return;
            }
            let shown = || self.terminal.shown();
            assert!(
                Instant::now() < deadline,
                "{words:?} not within a minute on {lines:#?}, of {:?}",
                shown()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
