//! What of a jail's output may reach a person's terminal. A program that is hostile writes it, and a
//! terminal obeys much more than "draw this" (xterm, ctlseqs.ms).
//!
//! Owns: the table of what passes. Everything else is dropped: an unknown sequence does not pass. Never:
//! lets half a sequence out, so what passes does not depend on how the input was cut.
//!
//! Text passes as UTF-8 without control characters; what is not UTF-8 becomes U+FFFD. Besides:
//!
//! | | [`Kind::View`], [`Kind::Replay`] | [`Kind::Drive`] adds |
//! |---|---|---|
//! | controls | BEL BS HT LF VT FF CR | SO SI |
//! | ESC | 7 8 D E M, character sets 0 A B | = > c |
//! | CSI | moving, erasing, scrolling, SGR | soft reset, cursor style, questions 5n 6n c |
//! | CSI ? h l | 7 12 25, alternate screen, 2026 (not in a replay) | 1 6, mouse, focus, bracketed paste |
//! | OSC | nothing | the questions 10 11 12 (colours) |
//!
//! Never in any of them: OSC 52 (clipboard), titles and their reports, hyperlinks, DCS, APC, PM, SOS, C1,
//! ENQ, window operations, printing, keyboard protocols (they would hide the key that detaches).

use std::collections::BTreeSet;

/// The longest sequence that is looked at, in bytes.
const LONGEST: usize = 256;

/// Modes of `CSI ? h` that change only what is drawn.
const DRAWING_MODES: [u16; 8] = [7, 12, 25, 47, 1047, 1048, 1049, 2026];

/// Modes that change what a terminal sends.
const KEY_MODES: [u16; 8] = [1, 6, 1000, 1002, 1003, 1004, 1006, 2004];

/// What for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody who only looks.
    View,
    /// What was printed before, for somebody who will type: no questions, no modes.
    Replay,
    /// Somebody who types: the terminal's answers are keys for the command.
    Drive,
}

/// A question that passed, or would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `CSI 6 n`: where is the cursor?
    Cursor,
    /// `CSI 5 n`: are you well?
    Status,
    /// `CSI c`: what are you?
    Device,
}

impl Question {
    /// What a plain terminal says, its cursor in the first place.
    pub fn plain_answer(self) -> &'static [u8] {
        match self {
            Self::Cursor => b"\x1b[1;1R",
            Self::Status => b"\x1b[0n",
            Self::Device => b"\x1b[?6c",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    /// Within a character of more than one byte.
    Character,
    Escape,
    /// After `ESC (` or the like.
    Designate,
    Csi,
    Osc,
    /// Within DCS, APC, PM or SOS.
    Dropped,
    /// ESC within [`State::Osc`]: perhaps its end.
    OscEscape,
    /// The same within [`State::Dropped`].
    DroppedEscape,
}

/// A filter that remembers where in a sequence it is.
#[derive(Debug)]
pub struct Filter {
    kind: Kind,
    state: State,
    held: Vec<u8>,
    modes: BTreeSet<u16>,
    asked: Vec<Question>,
}

impl Filter {
    /// At the beginning of an output.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            state: State::Ground,
            held: Vec::new(),
            modes: BTreeSet::new(),
            asked: Vec::new(),
        }
    }

    /// Appends to `output` what of `input` passes.
    pub fn pass(&mut self, input: &[u8], output: &mut Vec<u8>) {
        let mut rest = input;
        while let Some((first, after)) = rest.split_first() {
            // Plain text is most of what there is.
            let plain = if self.state == State::Ground {
                let acts = rest.iter().position(|byte| !is_plain_text(*byte));
                acts.unwrap_or(rest.len())
            } else {
                0
            };
            if plain > 0 {
                let (text, others) = rest.split_at(plain);
                output.extend_from_slice(text);
                rest = others;
            } else {
                self.take(*first, output);
                rest = after;
            }
        }
    }

    /// Modes of `CSI ? h` that passed and are set. The cursor (25) and the wrap (7), which are set from the
    /// beginning, are in here as long as they are *not*.
    pub fn modes(&self) -> impl Iterator<Item = u16> + '_ {
        self.modes.iter().copied()
    }

    /// Whether a full-screen program has the alternate screen.
    pub fn is_full_screen(&self) -> bool {
        [47, 1047, 1049]
            .iter()
            .any(|mode| self.modes.contains(mode))
    }

    /// Questions that passed since the last time; at most a few, the rest is forgotten.
    pub fn take_asked(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.asked)
    }

    /// Appends what brings a terminal into the modes that are in force.
    pub fn restore(&self, output: &mut Vec<u8>) {
        for mode in &self.modes {
            let letter = if is_set_at_first(*mode) { 'l' } else { 'h' };
            output.extend(format!("\x1b[?{mode}{letter}").bytes());
        }
    }

    /// Appends what brings a terminal back from them, and plain characters.
    pub fn reset(&self, output: &mut Vec<u8>) {
        for mode in self.modes.iter().rev() {
            let letter = if is_set_at_first(*mode) { 'h' } else { 'l' };
            output.extend(format!("\x1b[?{mode}{letter}").bytes());
        }
        output.extend(b"\x1b(B\x1b[m");
        if self.kind == Kind::Drive {
            output.extend(b"\x1b>\x0f");
        }
    }

    fn drives(&self) -> bool {
        self.kind == Kind::Drive
    }

    fn to(&mut self, state: State) {
        self.held.clear();
        self.state = state;
    }

    fn take(&mut self, byte: u8, output: &mut Vec<u8>) {
        match (self.state, byte) {
            // CAN and SUB end whatever it is.
            (_, 0x18 | 0x1a) => {
                self.interrupt(output);
                self.to(State::Ground);
            }
            (State::Ground, _) => self.ground(byte, output),
            (State::Character, _) => self.character(byte, output),
            (State::Osc, 0x07) | (State::OscEscape, b'\\') => {
                self.question_of_colours(output);
                self.to(State::Ground);
            }
            (State::Osc, 0x1b) => self.state = State::OscEscape,
            (State::Osc, _) | (State::Csi, 0x20..=0x3f) if self.held.len() < LONGEST => {
                self.held.push(byte);
            }
            (State::Dropped, 0x1b) => self.state = State::DroppedEscape,
            (State::Osc | State::Dropped, _) => {}
            (State::DroppedEscape, b'\\') => self.to(State::Ground),
            (State::Escape | State::OscEscape | State::DroppedEscape, _) => {
                self.escape(byte, output);
            }
            (State::Designate, b'0' | b'A' | b'B') => {
                let set = self.held.first().copied().unwrap_or(b'(');
                output.extend([0x1b, set, byte]);
                self.to(State::Ground);
            }
            (State::Csi, 0x40..=0x7e) => {
                self.sequence(byte, output);
                self.to(State::Ground);
            }
            (State::Designate | State::Csi, _) => {
                self.to(State::Ground);
                self.ground(byte, output);
            }
        }
    }

    /// Half a character that nothing completes.
    fn interrupt(&self, output: &mut Vec<u8>) {
        if self.state == State::Character {
            output.extend('\u{fffd}'.to_string().bytes());
        }
    }

    fn ground(&mut self, byte: u8, output: &mut Vec<u8>) {
        match byte {
            0x1b => self.to(State::Escape),
            0x07..=0x0d | 0x20..=0x7e => output.push(byte),
            0x0e | 0x0f if self.drives() => output.push(byte),
            0xc2..=0xf4 => {
                self.to(State::Character);
                self.held.push(byte);
            }
            0x80.. => output.extend('\u{fffd}'.to_string().bytes()),
            _ => {}
        }
    }

    fn character(&mut self, byte: u8, output: &mut Vec<u8>) {
        if byte & 0xc0 != 0x80 {
            self.interrupt(output);
            self.to(State::Ground);
            self.ground(byte, output);
            return;
        }
        self.held.push(byte);
        let length = match self.held.first() {
            Some(0xc2..=0xdf) => 2,
            Some(0xe0..=0xef) => 3,
            _ => 4,
        };
        if self.held.len() < length {
            return;
        }
        match std::str::from_utf8(&self.held) {
            Ok(text) if text.chars().all(|c| self.is_drawn(c)) => output.extend(&self.held),
            Ok(_) => {}
            Err(_) => self.interrupt(output),
        }
        self.to(State::Ground);
    }

    /// C1 controls are not; overrides of direction make a page lie to whoever only reads it.
    fn is_drawn(&self, c: char) -> bool {
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !c.is_control() && (self.drives() || !turns)
    }

    fn escape(&mut self, byte: u8, output: &mut Vec<u8>) {
        match byte {
            b'[' => self.to(State::Csi),
            b']' => self.to(State::Osc),
            b'P' | b'X' | b'^' | b'_' => self.to(State::Dropped),
            b'(' | b')' => {
                self.to(State::Designate);
                self.held.push(byte);
            }
            0x1b => self.to(State::Escape),
            b'7' | b'8' | b'D' | b'E' | b'M' => {
                output.extend([0x1b, byte]);
                self.to(State::Ground);
            }
            b'=' | b'>' | b'c' if self.drives() => {
                output.extend([0x1b, byte]);
                if byte == b'c' {
                    self.modes.clear();
                }
                self.to(State::Ground);
            }
            // A control within, or the rest of what is not known: nothing of it is drawn.
            0x20..=0x7e => self.to(State::Ground),
            _ => {
                self.to(State::Ground);
                self.ground(byte, output);
            }
        }
    }

    /// A whole CSI sequence, but for its introducer.
    fn sequence(&mut self, last: u8, output: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        let Ok(text) = std::str::from_utf8(&held) else {
            return;
        };
        if let Some(modes) = text.strip_prefix('?') {
            match last {
                b'h' | b'l' => self.set_modes(modes, last, output),
                b'J' | b'K' if numbers(modes).is_some_and(|n| n.len() < 2) => {
                    output.extend(format!("\x1b[?{modes}{}", char::from(last)).bytes());
                }
                _ => {}
            }
            return;
        }
        let passes = match numbers(text) {
            Some(numbers) => self.is_plain(last, &numbers),
            None => self.drives() && is_harmless(text, last),
        };
        if passes {
            output.extend(format!("\x1b[{text}{}", char::from(last)).bytes());
        }
    }

    /// Whether a sequence of numbers alone passes.
    fn is_plain(&mut self, last: u8, numbers: &[u16]) -> bool {
        let zero = matches!(numbers, [] | [0]);
        let question = match (last, numbers) {
            (b'n', [5]) => Some(Question::Status),
            (b'n', [6]) => Some(Question::Cursor),
            (b'c', _) if zero => Some(Question::Device),
            _ => None,
        };
        if let Some(question) = question {
            if self.drives() && self.asked.len() < 16 {
                self.asked.push(question);
            }
            return self.drives();
        }
        match last {
            b'@'..=b'G' | b'I' | b'J'..=b'M' | b'P' | b'S' | b'T' | b'X' | b'Z' => {
                numbers.len() < 2
            }
            b'`' | b'a' | b'b' | b'd' | b'e' | b'g' => numbers.len() < 2,
            b'H' | b'f' | b'r' => numbers.len() < 3,
            b'm' => true,
            b's' | b'u' => numbers.is_empty(),
            // Insert mode.
            b'h' | b'l' => numbers == [4],
            _ => false,
        }
    }

    fn set_modes(&mut self, modes: &str, last: u8, output: &mut Vec<u8>) {
        if self.kind == Kind::Replay {
            return;
        }
        let Some(modes) = numbers(modes) else {
            return;
        };
        for mode in modes {
            let known = DRAWING_MODES.contains(&mode) || self.drives() && KEY_MODES.contains(&mode);
            if !known {
                continue;
            }
            output.extend(format!("\x1b[?{mode}{}", char::from(last)).bytes());
            if (last == b'h') == is_set_at_first(mode) {
                self.modes.remove(&mode);
            } else {
                self.modes.insert(mode);
            }
        }
    }

    fn question_of_colours(&mut self, output: &mut Vec<u8>) {
        let known: [&[u8]; 3] = [b"10;?", b"11;?", b"12;?"];
        if self.drives() && known.contains(&self.held.as_slice()) {
            output.extend(b"\x1b]");
            output.extend(&self.held);
            output.extend(b"\x1b\\");
        }
    }
}

/// Bytes that pass whatever the kind is.
fn is_plain_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e)
}

/// The cursor shows and lines wrap before anybody says so.
fn is_set_at_first(mode: u16) -> bool {
    matches!(mode, 7 | 25)
}

/// Sequences with an intermediate byte that a program for whole screens uses: cursor style, soft reset.
fn is_harmless(text: &str, last: u8) -> bool {
    match last {
        b'q' => matches!(text, " " | "0 " | "1 " | "2 " | "3 " | "4 " | "5 " | "6 "),
        b'p' => text == "!",
        _ => false,
    }
}

/// Numbers up to 65535 between semicolons and, as in colours, colons; an absent one counts as 0. Numbers
/// that are larger make some terminals work for minutes.
fn numbers(text: &str) -> Option<Vec<u16>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let number = |word: &str| match word {
        "" => Some(0),
        _ if word.bytes().all(|byte| byte.is_ascii_digit()) => word.parse().ok(),
        _ => None,
    };
    text.split([';', ':']).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passed(kind: Kind, input: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        Filter::new(kind).pass(input, &mut output);
        output
    }

    fn shown(kind: Kind, input: &str) -> String {
        String::from_utf8(passed(kind, input.as_bytes())).unwrap()
    }

    #[test]
    fn drawing_passes_and_acting_does_not() {
        let drawn =
            "a\u{e9}\u{1f600}\t\r\n\x1b[1;38:5:7mred\x1b[m\x1b[2J\x1b[3;4H\x1b[K\x1b(0q\x1b(B";
        let dropped = [
            "\x1b]52;c;cm0gLXJm\x07",
            "\x1b]0;title\x1b\\",
            "\x1b]2;t\u{ef}tle\x07",
            "\x1b]8;;http://x\x07",
            "\x1b[21t",
            "\x1b[>c",
            "\x1b[>q",
            "\x1b[?u",
            "\x1b[>1u",
            "\x1b[>4;2m",
            "\x1b[5i",
            "\x1b[999999999b",
            "\x1bP$qm\x1b\\",
            "\x1bP+q544e\x1b\\",
            "\x1b_Ga=T\x1b\\",
            "\x1b^x\x1b\\",
            "\x1bXx\x1b\\",
            "\x1bZ",
            "\u{9b}",
            "\u{90}",
            "\x05",
            "\x7f",
        ];
        for kind in [Kind::View, Kind::Replay, Kind::Drive] {
            assert_eq!(shown(kind, drawn), drawn, "{kind:?}");
            for act in dropped {
                let around = format!("<{act}>");
                assert_eq!(shown(kind, &around), "<>", "{kind:?} {act:?}");
            }
            assert_eq!(passed(kind, b"<\x9b\xff>"), "<\u{fffd}\u{fffd}>".as_bytes());
        }
        for question in ["\x1b[6n", "\x1b[5n", "\x1b[c", "\x1b]11;?\x1b\\"] {
            assert_eq!(shown(Kind::Drive, question), question);
            assert_eq!(shown(Kind::View, question), "");
            assert_eq!(shown(Kind::Replay, question), "");
        }
        let modes = "\x1b[?1049;2004;9999h";
        assert_eq!(shown(Kind::Drive, modes), "\x1b[?1049h\x1b[?2004h");
        assert_eq!(shown(Kind::View, modes), "\x1b[?1049h");
        assert_eq!(shown(Kind::Replay, modes), "");
    }

    #[test]
    fn modes_are_taken_back_and_brought_back() {
        let mut filter = Filter::new(Kind::Drive);
        let mut output = Vec::new();
        filter.pass(b"\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[?2004l", &mut output);
        assert!(filter.is_full_screen());
        let (mut set, mut reset) = (Vec::new(), Vec::new());
        filter.restore(&mut set);
        filter.reset(&mut reset);
        assert_eq!(set, b"\x1b[?25l\x1b[?1049h");
        assert_eq!(reset, b"\x1b[?1049l\x1b[?25h\x1b(B\x1b[m\x1b>\x0f");
    }

    /// Pieces that make sequences likely.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => any::<u8>().prop_map(|byte| vec![byte]),
            3 => prop::sample::select(vec![
                "\x1b", "[", "]", "\x1b[", "\x1b]", "\x1bP", "\x1b\\", "52;c;", "?", ";", "6n", "21t", "\x07",
                "\u{9b}", "\u{9d}", "1049h", "1006h", "m", "\x18", "c", "_", "$qm", "\u{e9}", "10;?", ">", "(",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    /// An independent reading of what came out: every escape is one that the table has.
    fn is_allowed(kind: Kind, output: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(output) else {
            return false;
        };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = rest.get(c.len_utf8()..).unwrap();
            if c != '\x1b' {
                if c.is_control() && !"\x07\x08\t\n\x0b\x0c\r\x0e\x0f".contains(c) {
                    return false;
                }
                continue;
            }
            let taken = match rest.as_bytes() {
                [b'[', after @ ..] => {
                    let end = after.iter().position(|b| (0x40..=0x7e).contains(b));
                    let Some(end) = end else { return false };
                    let drawing = b"@ABCDEFGHIJKLMPSTXZ`abdefgmrsuhl";
                    let driving = b"ncqp";
                    let last = after[end];
                    let drives = kind == Kind::Drive && driving.contains(&last);
                    if !(drawing.contains(&last) || drives) {
                        return false;
                    }
                    if after[..end].iter().any(|b| b"<=>$'\"".contains(b)) {
                        return false;
                    }
                    end + 2
                }
                [b']', after @ ..] => {
                    let known: [&[u8]; 3] = [b"10;?\x1b\\", b"11;?\x1b\\", b"12;?\x1b\\"];
                    if kind != Kind::Drive || !known.iter().any(|k| after.starts_with(k)) {
                        return false;
                    }
                    7
                }
                [b'(' | b')', b'0' | b'A' | b'B', ..] => 2,
                [b'7' | b'8' | b'D' | b'E' | b'M', ..] => 1,
                [b'=' | b'>' | b'c', ..] if kind == Kind::Drive => 1,
                _ => return false,
            };
            let Some(after) = rest.get(taken..) else {
                return false;
            };
            rest = after;
        }
        true
    }

    proptest! {
        #[test]
        fn nothing_forbidden_comes_out_however_the_input_is_cut(
            input in output(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            for kind in [Kind::View, Kind::Replay, Kind::Drive] {
                let whole = passed(kind, &input);
                prop_assert!(is_allowed(kind, &whole), "{:?}", String::from_utf8_lossy(&whole));
                let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
                cuts.extend([0, input.len()]);
                cuts.sort_unstable();
                let mut filter = Filter::new(kind);
                let mut pieces = Vec::new();
                for cut in cuts.windows(2) {
                    filter.pass(&input[cut[0]..cut[1]], &mut pieces);
                }
                prop_assert_eq!(&pieces, &whole);
                prop_assert_eq!(&passed(kind, &whole), &whole, "what passed passes again");
            }
        }
    }
}
