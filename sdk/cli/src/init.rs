//! `waypost init`: makes the project of a new service, which runs, tests and registers itself.
//!
//! name, template, SDK ──▶ files ([`template`]) ──▶ a new folder, whole or not at all ──▶ what to do next
//!
//! Deliberately absent: anything that changes a folder that is there, and a Dockerfile, for which the SDK would have to
//! be published.

mod sdk;
mod template;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::json;

use self::sdk::Sdk;
use crate::{
    args::init::{InitArgs, InitServiceArgs, InitWhat},
    failure::{Exit, Failure},
    output::{Output, text},
};

/// Makes what is asked for in the working directory.
///
/// # Errors
/// There is such a folder, the SDK is not where it is said to be, or the disk refuses; nothing is left behind.
pub(crate) fn run(output: &Output, args: InitArgs) -> Result<(), Failure> {
    match args.what {
        InitWhat::Service(args) => service(output, &args),
    }
}

fn service(output: &Output, args: &InitServiceArgs) -> Result<(), Failure> {
    let sdk = match &args.sdk {
        Some(path) => Sdk::at(path, args.template)?,
        None => Sdk::find(&surroundings(), args.template),
    };
    let files = template::files(args.template, &args.name, &sdk);
    make(Path::new(&args.name), &files)?;
    let next = template::next_steps(&args.name);
    if !output.format.is_table() {
        let files: Vec<&str> = files.iter().map(|file| file.path).collect();
        let next: Vec<&str> = next.iter().map(|(command, _)| command.as_str()).collect();
        return output
            .document(&json!({ "folder": args.name, "files": files, "sdk": sdk.to_string(), "next": next }));
    }
    let count = text::count(files.len(), "file");
    output.line(format!("made the folder {} with {count}; its SDK is {sdk}", args.name))?;
    if sdk == Sdk::Released {
        output.note("where that is not published, name a checkout of Waypost with --sdk PATH");
    }
    for (command, why) in next {
        output.line(format!("  {command:<width$}  # {why}", width = 12))?;
    }
    Ok(())
}

/// Where a checkout of Waypost is looked for, and in which folders above.
fn surroundings() -> Vec<PathBuf> {
    let places = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    places.into_iter().flatten().collect()
}

/// Makes a folder with files, whole or not at all.
fn make(folder: &Path, files: &[template::File]) -> Result<(), Failure> {
    let shown = folder.display();
    fs::create_dir(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Failed, format!("{shown} exists, and what is there is not written over"))
                .way_out("choose another name, go to another folder, or move that one away")
        }
        _ => Failure::new(Exit::Failed, format!("the folder {shown} cannot be made here: {error}")),
    })?;
    files.iter().try_for_each(|file| write(folder, file)).map_err(|error| {
        // Made above, so that nothing of anybody else's is in it.
        let left = fs::remove_dir_all(folder).is_err();
        let left = if left { "; what was made of it is left there" } else { "" };
        Failure::new(Exit::Failed, format!("the files of {shown} cannot be written: {error}{left}"))
    })
}

fn write(folder: &Path, file: &template::File) -> io::Result<()> {
    let path = folder.join(file.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, &file.text)
}
