//! What is on the screen: the table, one session's page, the question before a stop; and what keys do to it.
//! Everything a session says is escaped before it is drawn.

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row as TableRow, Table, TableState};

use super::look::Row;
use crate::cli::audit::phrase;
use crate::cli::{counters, print, ps, show};
use crate::ids::SessionId;
use crate::wire::gate::Counters;

/// A column by which the table may be sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Profile,
    Running,
    Up,
    Down,
    Requests,
    Refused,
    Memory,
    Cpu,
}

/// In the order in which they stand.
const COLUMNS: [(Column, &str, u16); 9] = [
    (Column::Name, "NAME", 32),
    (Column::Profile, "PROFILE", 12),
    (Column::Running, "RUNNING", 12),
    (Column::Up, "UP/s", 9),
    (Column::Down, "DOWN/s", 9),
    (Column::Requests, "REQUESTS", 9),
    (Column::Refused, "REFUSED", 8),
    (Column::Memory, "MEMORY", 9),
    (Column::Cpu, "CPU %", 6),
];

/// What keys lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Draw again.
    Go,
    /// End.
    Quit,
    /// Have this session stopped.
    Stop(SessionId),
}

/// What is shown.
#[derive(Debug)]
pub(super) struct Screen {
    rows: Vec<Row>,
    selected: Option<SessionId>,
    sorted: Column,
    backwards: bool,
    /// The page of the selected session is shown, from this line on.
    page: Option<u16>,
    /// The session that may be about to be stopped.
    asks: Option<SessionId>,
    /// What there is to say, in the last line.
    said: String,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            selected: None,
            sorted: Column::Running,
            backwards: false,
            page: None,
            asks: None,
            said: String::new(),
        }
    }

    /// Takes the next look.
    pub(super) fn take(&mut self, rows: Vec<Row>) {
        self.rows = rows;
        self.sort();
        let there = |id: &SessionId| self.rows.iter().any(|row| row.id == *id);
        if !self.selected.as_ref().is_some_and(there) {
            self.selected = self.rows.first().map(|row| row.id);
            self.page = None;
        }
        self.asks = self.asks.take().filter(there);
    }

    /// Something to say until the next key.
    pub(super) fn say(&mut self, text: &str) {
        self.said = print::escape(text);
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> Act {
        self.said.clear();
        let ctrl_c =
            key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
        if ctrl_c {
            return Act::Quit;
        }
        if let Some(session) = self.asks.take() {
            if matches!(key.code, KeyCode::Char('y' | 'Y')) {
                return Act::Stop(session);
            }
            "not stopped".clone_into(&mut self.said);
            return Act::Go;
        }
        match (key.code, self.page) {
            (KeyCode::Char('q'), _) => return Act::Quit,
            (KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace, Some(_)) => self.page = None,
            (KeyCode::Up | KeyCode::Char('k'), Some(line)) => {
                self.page = Some(line.saturating_sub(1));
            }
            (KeyCode::Down | KeyCode::Char('j'), Some(line)) => {
                self.page = Some(line.saturating_add(1));
            }
            (KeyCode::Enter, None) if self.selected.is_some() => self.page = Some(0),
            (KeyCode::Up | KeyCode::Char('k'), None) => self.step(false),
            (KeyCode::Down | KeyCode::Char('j'), None) => self.step(true),
            (KeyCode::Char('o'), None) => {
                let columns = COLUMNS.iter().map(|(column, ..)| *column);
                let mut next = columns.clone().chain(columns);
                next.find(|column| *column == self.sorted);
                self.sorted = next.next().unwrap_or(self.sorted);
                self.sort();
            }
            (KeyCode::Char('r'), None) => {
                self.backwards = !self.backwards;
                self.sort();
            }
            (KeyCode::Char('s'), _) => self.asks = self.selected,
            _ => {}
        }
        Act::Go
    }

    fn step(&mut self, down: bool) {
        let place = self.place().unwrap_or(0);
        let next = if down {
            place.saturating_add(1)
        } else {
            place.saturating_sub(1)
        };
        if let Some(row) = self.rows.get(next) {
            self.selected = Some(row.id);
        }
    }

    fn place(&self) -> Option<usize> {
        let selected = self.selected?;
        self.rows.iter().position(|row| row.id == selected)
    }

    /// Names from the first letter on, the oldest first, amounts from the largest on.
    fn sort(&mut self) {
        let amount = |value: u64| u64::MAX - value;
        let counted = |row: &Row, value: fn(&Counters) -> u64| {
            amount(row.counters.as_deref().map_or(0, value))
        };
        let sorted = self.sorted;
        // An identifier begins with the time of its making.
        self.rows.sort_by_key(|row| row.id);
        self.rows.sort_by_cached_key(|row| match sorted {
            Column::Name => (name(row), 0),
            Column::Profile => (profile(row), 0),
            Column::Running => (String::new(), 0),
            Column::Up => (String::new(), amount(row.rates.up)),
            Column::Down => (String::new(), amount(row.rates.down)),
            Column::Requests => (String::new(), counted(row, |counters| counters.requests)),
            Column::Refused => (String::new(), counted(row, |counters| counters.denied)),
            Column::Memory => (String::new(), amount(row.usage.memory)),
            Column::Cpu => (String::new(), amount(row.cpu)),
        });
        if self.backwards {
            self.rows.reverse();
        }
    }

    /// Draws it.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let count = match self.rows.len() {
            0 => "no session of yours runs; portcullis run starts one".to_owned(),
            1 => "1 session".to_owned(),
            more => format!("{more} sessions"),
        };
        frame.render_widget(Line::from(format!("portcullis top: {count}")), head);
        match (
            self.page,
            self.place().and_then(|place| self.rows.get(place)),
        ) {
            (Some(first), Some(row)) => {
                let lines = page(row);
                // The last line stays in sight.
                let last = u16::try_from(lines.len()).unwrap_or(u16::MAX);
                let first = first.min(last.saturating_sub(1));
                self.page = Some(first);
                let lines: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
                frame.render_widget(Paragraph::new(lines).scroll((first, 0)), body);
            }
            _ => self.table(frame, body),
        }
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let text = match (self.asks, self.said.as_str(), self.page) {
            (Some(session), ..) => format!("stop {}? y/n", self.called(session)),
            (None, "", Some(_)) => "q quit  esc back  ↑↓ scroll  s stop".to_owned(),
            (None, "", None) => {
                "q quit  ↑↓ select  enter details  s stop  o sort  r reverse".to_owned()
            }
            (None, said, _) => said.to_owned(),
        };
        frame.render_widget(Line::from(text).style(bold), foot);
    }

    /// A session as its user calls it.
    pub(super) fn called(&self, session: SessionId) -> String {
        let row = self.rows.iter().find(|row| row.id == session);
        row.map_or_else(|| session.to_string(), name)
    }

    fn table(&self, frame: &mut Frame<'_>, area: Rect) {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let heading = COLUMNS.iter().map(|(column, title, _)| {
            let mark = match (*column == self.sorted, self.backwards) {
                (false, _) => "",
                (true, false) => "▾",
                (true, true) => "▴",
            };
            format!("{title}{mark}")
        });
        let widths = COLUMNS.iter().map(|(.., width)| Constraint::Length(*width));
        let rows = self.rows.iter().map(|row| TableRow::new(cells(row)));
        let table = Table::new(rows, widths)
            .header(TableRow::new(heading).style(bold))
            .column_spacing(1)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::default().with_selected(self.place());
        frame.render_stateful_widget(table, area, &mut state);
    }
}

fn name(row: &Row) -> String {
    let given = row
        .known
        .as_ref()
        .ok()
        .and_then(|known| known.name.as_ref());
    given.map_or_else(|| row.id.to_string(), |name| print::escape(name.as_str()))
}

fn profile(row: &Row) -> String {
    let known = row
        .known
        .as_ref()
        .map(|known| print::escape(&known.profile));
    known.unwrap_or_else(|_| "?".to_owned())
}

fn cells(row: &Row) -> Vec<String> {
    let counted = |value: fn(&Counters) -> u64| {
        let counters = row.counters.as_deref();
        counters.map_or_else(|| "?".to_owned(), |counters| value(counters).to_string())
    };
    let running = row.known.as_ref().map(|known| match &known.audit {
        Some(why) => ps::audit_word(why).to_owned(),
        None => ps::age(known.started),
    });
    vec![
        name(row),
        profile(row),
        running.unwrap_or_else(|_| "?".to_owned()),
        phrase::bytes(row.rates.up),
        phrase::bytes(row.rates.down),
        counted(|counters| counters.requests),
        counted(|counters| counters.denied),
        phrase::bytes(row.usage.memory),
        row.cpu.to_string(),
    ]
}

/// As `portcullis show` has it, with what the processes take.
fn page(row: &Row) -> Vec<String> {
    let mut lines = match &row.known {
        Ok(known) => show::page(known),
        Err(problem) => vec![
            format!("session      {}", row.id),
            format!("problem      {}", print::escape(problem)),
        ],
    };
    lines.push(format!(
        "processes    {}, {} in memory, {} % of a processor",
        row.usage.processes,
        phrase::bytes(row.usage.memory),
        row.cpu
    ));
    match &row.counters {
        Some(counters) => lines.extend(counters::page(counters)),
        None => lines.push("network      none any more: the gate died".to_owned()),
    }
    lines
}
