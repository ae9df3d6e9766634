//! `portcullis man FOLDER`: writes the manual pages, one a verb, from the definitions that parse the command
//! line. Hidden: packaging calls it, and so a page cannot tell of a flag that is not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::failure::{Failure, Outcome};
use crate::exit::Exit;

/// The manual that the pages are of, in their foot.
const MANUAL: &str = "Portcullis";

/// What roff writes first: how `\*(Aq` makes an apostrophe.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// The folder to write to; made if it is not there
    folder: PathBuf,
}

/// Writes them.
pub fn run(arguments: &ManArguments) -> Outcome {
    let folder = &arguments.folder;
    let mut command = super::Arguments::command();
    command.build();
    fs::create_dir_all(folder)
        .and_then(|()| pages(&command, None, folder))
        .map_err(|error| {
            let what = format!(
                "the manual cannot be written to {}: {error}",
                folder.display()
            );
            Failure::new(Exit::NotStarted, what)
        })?;
    Ok(Exit::Success)
}

/// The page of a command, and those of all below it.
fn pages(command: &Command, above: Option<&str>, folder: &Path) -> io::Result<()> {
    let name = name(command);
    let version = env!("CARGO_PKG_VERSION");
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command
        .get_arguments()
        .any(|argument| !argument.is_hide_set())
    {
        man.render_options_section(&mut page)?;
    }
    if visible(command).next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(text) = command.get_after_help() {
        after_help(&text.to_string()).to_writer(&mut page)?;
    }
    see_also(command, above).to_writer(&mut page)?;
    // Each part brings these definitions along.
    let body = String::from_utf8_lossy(&page).replace(APOSTROPHE, "");
    // No date: the same source makes the same page.
    let title = name.to_uppercase();
    let page =
        format!("{APOSTROPHE}.TH {title} 1 \"\" \"portcullis {version}\" \"{MANUAL}\"\n{body}");
    fs::write(folder.join(format!("{name}.1")), page)?;
    visible(command).try_for_each(|below| pages(below, Some(name), folder))
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
}

/// `portcullis-policy-show`: of a command that was built, so that it knows those above it.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// What stands below the options in `--help`: paragraphs, some of them a heading with indented lines, which
/// stay lines.
fn after_help(text: &str) -> Roff {
    let mut page = Roff::new();
    let mut noted = false;
    for paragraph in text.split("\n\n") {
        let lines: Vec<&str> = paragraph.lines().collect();
        match lines.split_first() {
            Some((heading, rest)) if !rest.is_empty() && heading.ends_with(':') => {
                page.control(
                    "SH",
                    [heading.trim_end_matches(':').to_uppercase().as_str()],
                );
                page.control("nf", []);
                for line in rest {
                    page.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
                }
                page.control("fi", []);
            }
            Some(_) => {
                let status = ["Exit status", "Exits "]
                    .iter()
                    .any(|start| paragraph.starts_with(start));
                if status {
                    page.control("SH", ["EXIT STATUS"]);
                } else if noted {
                    page.control("PP", []);
                } else {
                    page.control("SH", ["NOTES"]);
                    noted = true;
                }
                for line in lines {
                    page.text([roman(line)]);
                }
            }
            None => {}
        }
    }
    page
}

/// The page above and those below; the top also names the service's.
fn see_also(command: &Command, above: Option<&str>) -> Roff {
    let mut pages: Vec<(String, u8)> = Vec::new();
    pages.extend(above.map(|above| (above.to_owned(), 1)));
    pages.extend(visible(command).map(|below| (name(below).to_owned(), 1)));
    if above.is_none() {
        pages.push(("portcullisd".to_owned(), 8));
    }
    let mut page = Roff::new();
    page.control("SH", ["SEE ALSO"]);
    let last = pages.len().saturating_sub(1);
    let mut line = Vec::new();
    for (index, (name, section)) in pages.into_iter().enumerate() {
        let comma = if index == last { "" } else { ", " };
        line.extend([bold(name), roman(format!("({section}){comma}"))]);
    }
    page.text(line);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_examples_stay_lines_and_sentences_flow() {
        let text = "Examples:\n  a -x  one\n  b     two\n\nExits 0 when\nit is over.\n\nMore.\n\nAnd more.";
        let expected = ".SH EXAMPLES\n.nf\na \\-x  one\nb     two\n.fi\n.SH \"EXIT STATUS\"\nExits 0 when\nit is over.\n\
            .SH NOTES\nMore.\n.PP\nAnd more.\n";
        let mut page = Vec::new();
        after_help(text).to_writer(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        // roff starts with definitions of its own.
        assert!(page.ends_with(expected), "{page}");
    }
}
