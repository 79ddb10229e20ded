//! Reads what strace wrote of a process: each call that changes a folder, syncs a part of it, or sends something to a
//! client, with its place in the order of all of them. Knows nothing of disks and of what is in the files.
//!
//! The tracer stops a thread at the begin and at the end of a call and writes a line for each (one for both if nothing
//! came between). A thread goes on only then, so what one call caused, in whatever thread, stands below it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What is recorded: all by which a file can change or be synced, and what is sent over sockets. `?`: not every machine
/// has it.
pub(crate) const CALLS: &str = "trace=?open,openat,?openat2,?creat,?mkdir,mkdirat,?unlink,unlinkat,?rmdir,?rename,\
     ?renameat,renameat2,?link,linkat,?symlink,symlinkat,lseek,read,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,?sendmmsg,\
     sendfile,splice,copy_file_range,truncate,ftruncate,fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,mmap,\
     ?io_uring_setup";

/// Lines count from 0.
pub(crate) type Place = usize;

/// A call that matters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) began: Place,
    /// None: the process ended first.
    pub(crate) ended: Option<Place>,
    pub(crate) call: Call,
}

/// Paths are whole ones.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    MakeFolder(PathBuf),
    /// Opened in order to make it if it is not there.
    OpenOrMake(PathBuf),
    Remove(PathBuf),
    Write {
        path: PathBuf,
        offset: usize,
        bytes: Vec<u8>,
    },
    SetLength {
        path: PathBuf,
        length: usize,
    },
    /// Of a file or a folder.
    Sync(PathBuf),
    Send {
        /// The client's.
        port: u16,
        bytes: Vec<u8>,
    },
}

/// The calls that concern what is in `folder`, and what is sent to TCP clients; in the order of their begin.
pub(crate) fn read(text: &str, folder: &Path) -> Result<Vec<Event>, String> {
    let mut events = Vec::new();
    let mut positions = HashMap::new();
    let mut unfinished: HashMap<&str, (Place, &str)> = HashMap::new();
    for (place, line) in text.lines().enumerate() {
        let Some((thread, said)) = line.split_once(' ') else {
            return Err(format!("line {place} names no thread: {}", shorten(line)));
        };
        let said = said.trim_start();
        if said.starts_with("+++") || said.starts_with("---") {
            continue;
        }
        let (began, call, result) = if let Some(resumed) = said.strip_prefix("<... ") {
            let Some((began, first_part)) = unfinished.remove(thread) else {
                return Err(format!("line {place} resumes nothing: {}", shorten(said)));
            };
            let (_, rest) = resumed.split_once(" resumed>").unwrap_or(("", resumed));
            (began, first_part, result(rest))
        } else if let Some(first_part) = said.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (place, first_part));
            continue;
        } else {
            (place, said, result(said))
        };
        let result = result.ok_or_else(|| format!("line {place} has no result: {}", shorten(said)))?;
        let event = understand(began, Some(place), call, result, folder, &mut positions);
        events.extend(event.map_err(|fault| format!("line {place}: {fault}"))?);
    }
    for (began, first_part) in unfinished.into_values() {
        if first_part == KILLED_AT_ENTRY {
            continue;
        }
        // What it would have been, had it done all that was asked.
        events.extend(
            understand(began, None, first_part, "?", folder, &mut positions)
                .map_err(|fault| format!("line {began}: {fault}"))?,
        );
    }
    events.sort_by_key(|event| event.began);
    Ok(events)
}

/// A call that the process was killed at before strace could read which it is: the system has not begun it.
const KILLED_AT_ENTRY: &str = "???(";

fn shorten(text: &str) -> &str {
    text.get(..200).unwrap_or(text)
}

/// What stands behind the last `=`: payloads are in hex, so it is no part of one.
fn result(text: &str) -> Option<&str> {
    Some(text.rsplit_once(" = ")?.1)
}

fn understand(
    began: Place,
    ended: Option<Place>,
    text: &str,
    result: &str,
    folder: &Path,
    positions: &mut HashMap<String, usize>,
) -> Result<Option<Event>, String> {
    let (name, arguments) = text.split_once('(').ok_or("it is no call")?;
    if result.starts_with('-') {
        // It failed, and changed nothing.
        return Ok(None);
    }
    let arguments = Arguments(arguments);
    let within = |path: &PathBuf| path.starts_with(folder);
    let call = match name {
        "sendto" | "write" | "writev" | "sendmsg" if arguments.is_tcp() => {
            let port = arguments.peer_port()?;
            let mut bytes = arguments.strings(name)?;
            bytes.truncate(count(result)?);
            Some(Call::Send { port, bytes })
        }
        "pwrite64" => {
            let mut bytes = arguments.strings(name)?;
            bytes.truncate(count(result)?);
            let offset = arguments.last_number()?;
            let write = |path| Call::Write { path, offset, bytes };
            arguments.path_of_handle().filter(within).map(write)
        }
        "write" if arguments.path_of_handle().is_some_and(|path| within(&path)) => {
            let path = arguments.path_of_handle().ok_or("it names no file")?;
            let mut bytes = arguments.strings(name)?;
            bytes.truncate(count(result)?);
            let position = positions
                .get_mut(arguments.number())
                .ok_or("its position is not known")?;
            let offset = *position;
            *position += bytes.len();
            Some(Call::Write { path, offset, bytes })
        }
        "ftruncate" => {
            let length = arguments.last_number()?;
            let path = arguments.path_of_handle().filter(within);
            path.map(|path| Call::SetLength { path, length })
        }
        "fsync" | "fdatasync" => arguments.path_of_handle().filter(within).map(Call::Sync),
        "openat" => {
            let path = arguments.path()?;
            if within(&path)
                && ["O_TRUNC", "O_TMPFILE", "O_APPEND"]
                    .iter()
                    .any(|flag| text.contains(flag))
            {
                return Err(format!("it opens {} in a way that is not known here", path.display()));
            }
            if within(&path) {
                positions.insert(Arguments(result).number().to_owned(), 0);
            }
            let makes = text.contains("O_CREAT");
            Some(path).filter(|path| makes && within(path)).map(Call::OpenOrMake)
        }
        "mkdir" | "mkdirat" => Some(arguments.path()?).filter(within).map(Call::MakeFolder),
        "unlink" | "unlinkat" => Some(arguments.path()?).filter(within).map(Call::Remove),
        // The index of the log is mapped, and made anew after a cut whatever is in it.
        "mmap" if !text.contains("MAP_SHARED") => None,
        "mmap"
            if arguments
                .mapped_path()
                .is_none_or(|path| !within(&path) || is_index(&path)) =>
        {
            None
        }
        // Nothing is written by a handle that was read by: the file's header is looked at before the engine opens it.
        "read" => None,
        _ if arguments.path_of_handle().is_some_and(|path| within(&path)) => {
            return Err(format!("{name} of a file is not known here: {}", shorten(text)));
        }
        "lseek" | "write" | "writev" | "sendto" | "sendmsg" => None,
        _ => return Err(format!("{name} is not known here: {}", shorten(text))),
    };
    Ok(call.map(|call| Event { began, ended, call }))
}

/// Whether the file is the shared memory beside a database.
pub(crate) fn is_index(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with("-shm"))
}

/// How many bytes a call took; all, if it did not say.
fn count(result: &str) -> Result<usize, String> {
    // "? <unavailable>" of a call that the process did not outlive.
    if result.starts_with('?') {
        return Ok(usize::MAX);
    }
    result.parse().map_err(|_| format!("{result:?} is no number"))
}

/// The text between a call's brackets, and what is behind it.
struct Arguments<'text>(&'text str);

impl Arguments<'_> {
    /// The path, or what kind of socket it is, of the handle that comes first: `5<...>`.
    fn handle(&self) -> Option<&str> {
        let (number, rest) = self.0.split_once('<')?;
        number.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
        // `>` in a name would be in hex.
        rest.strip_prefix("TCP:[").map_or_else(
            || rest.split_once('>').map(|(name, _)| name),
            |_| rest.split_once("]>").map(|(name, _)| name),
        )
    }

    /// Of the handle that comes first.
    fn number(&self) -> &str {
        self.0.split_once('<').map_or("", |(number, _)| number)
    }

    fn is_tcp(&self) -> bool {
        self.handle().is_some_and(|name| name.starts_with("TCP:["))
    }

    /// Of `TCP:[127.0.0.1:50051->127.0.0.1:40000`.
    fn peer_port(&self) -> Result<u16, String> {
        let name = self.handle().unwrap_or_default();
        let port = name.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.ok_or_else(|| format!("{name:?} names no peer"))
    }

    fn path_of_handle(&self) -> Option<PathBuf> {
        path(self.handle()?)
    }

    fn mapped_path(&self) -> Option<PathBuf> {
        path(self.0.split_once('<')?.1.split_once('>')?.0)
    }

    fn path(&self) -> Result<PathBuf, String> {
        let (_, rest) = self.0.split_once('"').ok_or("it names no path")?;
        let (quoted, _) = rest.split_once('"').ok_or("its path has no end")?;
        let path = path(quoted).ok_or("its path does not read")?;
        Ok(path)
    }

    /// All that is in quotes, one after another: what is written.
    fn strings(&self, name: &str) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut quotes = self.0.split('"');
        quotes.next();
        while let (Some(quoted), Some(behind)) = (quotes.next(), quotes.next()) {
            if behind.starts_with("...") {
                return Err(format!("{name} is not recorded whole"));
            }
            unhex(quoted, &mut bytes).ok_or_else(|| format!("{name} does not read: {}", shorten(quoted)))?;
        }
        Ok(bytes)
    }

    fn last_number(&self) -> Result<usize, String> {
        let inside = self.0.rsplit_once(')').map_or(self.0, |(inside, _)| inside);
        let number = inside.rsplit_once(", ").map_or(inside, |(_, number)| number);
        number.parse().map_err(|_| format!("{number:?} is no number"))
    }
}

fn path(hex: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    unhex(hex, &mut bytes)?;
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

/// Adds the bytes that `\x2f\x74` stands for.
fn unhex(text: &str, bytes: &mut Vec<u8>) -> Option<()> {
    let (quads, rest) = text.as_bytes().as_chunks::<4>();
    bytes.reserve(quads.len());
    let digit = |digit: u8| char::from(digit).to_digit(16);
    for [backslash, x, high, low] in quads {
        let byte = digit(*high)? * 16 + digit(*low)?;
        (*backslash == b'\\' && *x == b'x').then_some(())?;
        bytes.push(u8::try_from(byte).ok()?);
    }
    rest.is_empty().then_some(())
}
