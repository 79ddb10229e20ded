//! The parts of the check on records made by hand: what is read in them, what a cut leaves of a disk, when an answer was
//! given.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::answers::{Sent, sent};
use crate::disk::{Disk, Image, Luck};
use crate::trace::{Call, Event, Place, read};

const FOLDER: &str = "/store";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "\\x{byte:02x}").expect("a string takes it");
        text
    })
}

/// As strace writes it: what stands between backquotes is in hex.
fn record(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        for (index, part) in line.split('`').enumerate() {
            text += &if index % 2 == 0 {
                part.to_owned()
            } else {
                hex(part.as_bytes())
            };
        }
        text.push('\n');
    }
    text
}

fn event(began: Place, ended: impl Into<Option<Place>>, call: Call) -> Event {
    let ended = ended.into();
    Event { began, ended, call }
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn written(name: &str, offset: usize, bytes: &[u8]) -> Call {
    Call::Write {
        path: path(name),
        offset,
        bytes: bytes.to_owned(),
    }
}

fn length(name: &str, length: usize) -> Call {
    Call::SetLength {
        path: path(name),
        length,
    }
}

#[test]
fn a_record_is_read_in_the_order_of_what_began() {
    let text = record(&[
        r#"9  mkdir("`/store/data`", 0777) = 0"#,
        r#"9  openat(AT_FDCWD<`/home`>, "`/etc/passwd`", O_RDONLY|O_CLOEXEC) = 3<`/etc/passwd`>"#,
        r#"9  openat(AT_FDCWD<`/home`>, "`/store/db`", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 4<`/store/db`>"#,
        r#"9  openat(AT_FDCWD<`/home`>, "`/store/none`", O_RDWR|O_CREAT, 0644) = -1 EACCES (Permission denied)"#,
        r"9  mmap(NULL, 32768, PROT_READ|PROT_WRITE, MAP_SHARED, 5<`/store/db-shm`>, 0) = 0x7f0000000000",
        r#"9  write(1<`/dev/null`>, "`ready`", 5) = 5"#,
        r#"9  pwrite64(4<`/store/db`>, "`pages`", 5, 4096 <unfinished ...>"#,
        r"10 fsync(4<`/store/db`>)                = 0",
        r"9  <... pwrite64 resumed>)        = 3",
        r"10 --- SIGTERM {si_signo=SIGTERM} ---",
        r#"10 sendto(8<TCP:[127.0.0.1:50051->127.0.0.1:40000]>, "`answer`", 6, MSG_NOSIGNAL, NULL, 0) = 6"#,
        r#"10 writev(8<TCP:[127.0.0.1:50051->127.0.0.1:40000]>, [{iov_base="`one`", iov_len=3}, {iov_base="`two`", iov_len=3}], 2) = 6"#,
        r"10 ftruncate(4<`/store/db`>, 100) = 0",
        r#"10 write(4<`/store/db`>, "`head`", 4) = 4"#,
        r#"10 write(4<`/store/db`>, "`more`", 4) = 2"#,
        r#"10 unlink("`/store/db`")         = 0"#,
        r"10 fdatasync(7<`/store`> <unfinished ...>",
        r"9  ???( <unfinished ...>",
        "9  +++ killed by SIGKILL +++",
    ]);
    let send = |bytes: &str| Call::Send {
        port: 40_000,
        bytes: bytes.into(),
    };
    let expected = vec![
        event(0, 0, Call::MakeFolder(path("data"))),
        event(2, 2, Call::OpenOrMake(path("db"))),
        // What was not taken was not written.
        event(6, 8, written("db", 4096, b"pag")),
        event(7, 7, Call::Sync(path("db"))),
        event(10, 10, send("answer")),
        event(11, 11, send("onetwo")),
        event(12, 12, length("db", 100)),
        event(13, 13, written("db", 0, b"head")),
        event(14, 14, written("db", 4, b"mo")),
        event(15, 15, Call::Remove(path("db"))),
        event(16, None, Call::Sync(PathBuf::from(FOLDER))),
    ];
    assert_eq!(read(&text, Path::new(FOLDER)), Ok(expected));
}

#[test]
fn what_the_record_does_not_tell_is_a_fault() {
    for (line, fault) in [
        (
            r#"9 pwrite64(4<`/store/db`>, "`pages`"..., 9000, 0) = 9000"#,
            "not recorded whole",
        ),
        (
            r#"9 pwritev(4<`/store/db`>, [{iov_base="`a`", iov_len=1}], 1, 0) = 1"#,
            "pwritev",
        ),
        (r#"9 write(4<`/store/db`>, "`a`", 1) = 1"#, "its position is not known"),
        (
            r"9 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 4<`/store/db`>, 0) = 0x7f0000000000",
            "mmap",
        ),
        (r#"9 rename("`/store/a`", "`/store/b`") = 0"#, "rename is not known"),
        (
            r#"9 openat(AT_FDCWD, "`/store/db`", O_RDWR|O_TRUNC) = 4<`/store/db`>"#,
            "in a way that is not known",
        ),
        (
            r"9 io_uring_setup(8, {flags=0}) = 4<anon_inode:[io_uring]>",
            "io_uring_setup",
        ),
        (r"9 <... fsync resumed>) = 0", "resumes nothing"),
    ] {
        let refused = read(&record(&[line]), Path::new(FOLDER)).expect_err(line);
        assert!(refused.contains(fault), "{refused}");
    }
}

fn disk(events: &[Event]) -> Disk {
    Disk::new(Path::new(FOLDER), events).expect("it is whole")
}

fn files(files: &[(&str, &[u8])]) -> Image {
    let files = files
        .iter()
        .map(|(name, content)| (PathBuf::from(name), content.to_vec()));
    Image {
        folders: BTreeSet::from([PathBuf::new()]),
        files: files.collect(),
    }
}

#[test]
fn only_what_was_synced_is_certain() {
    let folder = || Call::Sync(PathBuf::from(FOLDER));
    let disk = disk(&[
        event(0, 0, Call::OpenOrMake(path("db"))),
        event(1, 1, folder()),
        event(2, 2, written("db", 0, b"one")),
        // Under way while the file is synced: not certain by that.
        event(3, 6, written("db", 3, b"two")),
        event(4, 5, Call::Sync(path("db"))),
        event(7, 7, Call::OpenOrMake(path("log"))),
        event(8, 8, written("log", 0, b"log")),
        event(9, 9, Call::Sync(path("log"))),
        event(10, 10, folder()),
        event(11, 11, length("db", 2)),
        event(12, 12, Call::Remove(path("log"))),
        event(13, 13, Call::OpenOrMake(path("log"))),
        event(14, 14, Call::Sync(path("db"))),
        event(15, 15, folder()),
    ]);
    let mut chance = rand::rng();
    let mut after = |cut, luck| disk.after_cut(cut, luck, &mut chance);
    assert_eq!(after(1, Luck::None), files(&[]));
    assert_eq!(after(2, Luck::None), files(&[("db", b"")]));
    assert_eq!(after(5, Luck::None), files(&[("db", b"")]), "the sync has not ended");
    assert_eq!(after(7, Luck::None), files(&[("db", b"one")]));
    assert_eq!(after(10, Luck::None), files(&[("db", b"one")]), "the log has no name");
    assert_eq!(after(11, Luck::None), files(&[("db", b"one"), ("log", b"log")]));
    assert_eq!(after(14, Luck::None), files(&[("db", b"one"), ("log", b"log")]));
    assert_eq!(
        after(16, Luck::None),
        files(&[("db", b"on"), ("log", b"")]),
        "another log"
    );
    assert_eq!(after(14, Luck::All).files[Path::new("log")], b"");
    // With luck the disk took what nobody made it take: each for itself.
    let lucky: BTreeSet<Option<Vec<u8>>> = (0..200)
        .map(|_| after(14, Luck::Half).files.remove(Path::new("log")))
        .collect();
    assert_eq!(lucky, BTreeSet::from([None, Some(b"".to_vec()), Some(b"log".to_vec())]));
}

#[test]
fn what_is_in_a_folder_goes_with_it() {
    let disk = disk(&[
        event(0, 0, Call::MakeFolder(path("data"))),
        event(1, 1, Call::OpenOrMake(path("data/db"))),
        event(2, 2, Call::Sync(path("data"))),
        event(3, 3, Call::Sync(PathBuf::from(FOLDER))),
    ]);
    let mut chance = rand::rng();
    assert_eq!(disk.after_cut(3, Luck::None, &mut chance), files(&[]));
    let whole = disk.after_cut(4, Luck::None, &mut chance);
    assert_eq!(whole.files, BTreeMap::from([(PathBuf::from("data/db"), Vec::new())]));
    let folder = tempfile::tempdir().expect("a folder can be made");
    whole.write_to(folder.path()).expect("it is laid out");
    assert!(folder.path().join("data/db").is_file());
}

#[test]
fn the_last_write_is_torn_at_sectors() {
    let disk = disk(&[
        event(0, 0, Call::OpenOrMake(path("db"))),
        event(1, 1, Call::Sync(PathBuf::from(FOLDER))),
        event(2, 2, written("db", 0, &[1; 2_000])),
        event(3, 3, written("db", 100, &[2; 1_000])),
        event(4, 4, Call::Sync(path("other"))),
    ]);
    let mut chance = rand::rng();
    let torn: BTreeSet<[u8; 3]> = (0..400)
        .map(|_| {
            let image = disk.after_cut(5, Luck::All, &mut chance);
            let content = &image.files[Path::new("db")];
            assert_eq!(content.len(), 2_000, "the one before is whole");
            let parts = [0..100, 100..512, 512..1_024, 1_024..1_100, 1_100..2_000].map(|range| {
                let part = &content[range];
                assert!(part.iter().all(|byte| *byte == part[0]), "a sector is whole");
                part[0]
            });
            assert_eq!((parts[0], parts[4]), (1, 1));
            [parts[1], parts[2], parts[3]]
        })
        .collect();
    assert_eq!(torn.len(), 8, "each sector for itself");
}

#[test]
fn the_power_goes_between_one_sync_and_the_next() {
    let disk = disk(&[event(3, 4, Call::Sync(path("db"))), event(8, 8, Call::Sync(path("db")))]);
    let mut chance = rand::rng();
    let moments: BTreeSet<Place> = (0..400).map(|_| disk.moment(&mut chance)).collect();
    assert_eq!(moments, BTreeSet::from([5, 6, 7, 8, 9]));
}

fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("it is short");
    let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

#[test]
fn an_answer_is_given_where_its_last_byte_is_sent() {
    let send = |at, port, bytes: &[u8]| {
        let bytes = bytes.to_vec();
        event(at, at, Call::Send { port, bytes })
    };
    let settings = frame(4, 0, &[0; 6]);
    let whole = frame(0, 1, &[0, 0, 0, 0, 2, 7, 8]);
    let begin = frame(0, 3, &[0, 0, 0, 0, 3, 1]);
    let end = frame(0, 3, &[2, 3]);
    let events = [
        send(0, 1, &[settings, frame(1, 1, b"head"), whole.clone()].concat()),
        send(1, 2, &whole[..4]),
        send(2, 1, &begin),
        send(3, 2, &whole[4..]),
        send(4, 1, &end),
        send(5, 1, &frame(0, 3, &[])),
    ];
    let answer = |at, message: &[u8]| Sent {
        at,
        message: message.to_vec(),
    };
    let expected = BTreeMap::from([
        (1, vec![answer(0, &[7, 8]), answer(4, &[1, 2, 3])]),
        (2, vec![answer(3, &[7, 8])]),
    ]);
    assert_eq!(sent(&events), expected);
}
