//! Documents from files, folders and standard input.
//!
//! Deliberately absent: URLs. What is declared should be what somebody has looked at; fetch it first.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use waypost_proto::v1::Document;

use crate::failure::{Exit, Failure};

/// The files of a folder that are read.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads what the paths name, in their order; the files of a folder in the order of their names.
///
/// # Errors
/// A path cannot be read, is no text, or is a folder without manifests.
pub(crate) fn documents(paths: &[PathBuf], recursive: bool) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    let mut input_taken = false;
    for path in paths {
        if path == Path::new("-") {
            if input_taken {
                return Err(Failure::new(Exit::Usage, "standard input (-) can be read only once"));
            }
            input_taken = true;
            let mut bytes = Vec::new();
            io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(|error| unreadable("standard input", &error))?;
            documents.push(document("-", bytes)?);
        } else {
            for file in files(path, recursive)? {
                let name = file.display().to_string();
                let bytes = fs::read(&file).map_err(|error| unreadable(&name, &error))?;
                documents.push(document(&name, bytes)?);
            }
        }
    }
    Ok(documents)
}

fn document(source: &str, bytes: Vec<u8>) -> Result<Document, Failure> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::new(Exit::Usage, format!("{source}:{line}: is not text in UTF-8"))
    })?;
    Ok(Document { source: source.to_owned(), text })
}

fn files(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, Failure> {
    let name = path.display().to_string();
    if name.starts_with("http://") || name.starts_with("https://") {
        return Err(Failure::new(Exit::Usage, format!("{name}: URLs are not fetched"))
            .way_out(format!("look at it first, and then: curl --fail {name} | waypost apply -f -")));
    }
    // What is no folder is read as a file, which also says why it cannot be.
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    let folders = list(path, recursive, &mut found)?;
    if found.is_empty() {
        let failure = Failure::new(Exit::Usage, format!("{name}: holds no .yaml, .yml or .json file"));
        return Err(if folders { failure.way_out("look into its folders, too, with: -R") } else { failure });
    }
    Ok(found)
}

/// Adds the manifests in a folder, and says whether there are folders in it.
fn list(folder: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> Result<bool, Failure> {
    let unreadable = |error: io::Error| unreadable(&folder.display().to_string(), &error);
    let entries: Result<Vec<_>, _> = fs::read_dir(folder).map_err(unreadable)?.collect();
    let mut entries = entries.map_err(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut folders = false;
    for entry in entries {
        let path = entry.path();
        // A link to a folder is not followed, so that this ends.
        if entry.file_type().map_err(unreadable)?.is_dir() {
            folders = true;
            if recursive {
                list(&path, recursive, found)?;
            }
        } else if path
            .extension()
            .is_some_and(|end| EXTENSIONS.iter().any(|known| end.eq_ignore_ascii_case(known)))
            && path.is_file()
        {
            found.push(path);
        }
    }
    Ok(folders)
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Usage, format!("{name}: cannot be read: {error}"))
}
