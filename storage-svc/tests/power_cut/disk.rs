//! A disk as a power cut may leave it. Knows which changes of a folder were synced when, and nothing of what they mean.
//!
//! A change is on the disk for certain once a sync of its file, begun after the change had ended, has ended. A file that
//! was made or removed is (or is not) there for certain once the folder it is in has been synced so. All else that had
//! begun before the cut may be there or not, each change for itself, in whatever order the disk took them; and the last
//! write that it took may be there in part: some of its sectors of 512 bytes. (That a write spoils nothing beside itself
//! is what the engine takes for granted as well: its powersafe overwrite.)

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use rand::{Rng, RngExt as _};

use crate::trace::{Call, Event, Place, is_index};

const SECTOR: usize = 512;

/// What has happened to a folder.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    changes: Vec<Change>,
    /// Where syncs ended.
    syncs: Vec<Place>,
}

/// One change, in order of their begin.
#[derive(Debug)]
struct Change {
    began: Place,
    /// From when on it is certain.
    certain: Option<Place>,
    what: What,
}

/// A file is known by the number of the change that made it: its name may be another's later.
type File = usize;

#[derive(Debug)]
enum What {
    MakeFolder(PathBuf),
    Make(PathBuf, File),
    Remove(PathBuf),
    Write { file: File, offset: usize, bytes: Vec<u8> },
    SetLength { file: File, length: usize },
}

/// How much of what was not certain the disk took.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Luck {
    None,
    Half,
    All,
}

/// What is found in the folder when the power is back.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Image {
    pub(crate) folders: BTreeSet<PathBuf>,
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Disk {
    /// Of an empty folder, and what was done to it.
    pub(crate) fn new(folder: &Path, events: &[Event]) -> Result<Self, String> {
        let mut disk = Self {
            folder: folder.to_owned(),
            changes: Vec::new(),
            syncs: Vec::new(),
        };
        let mut names: BTreeMap<&Path, File> = BTreeMap::new();
        // What a sync of this file, or of this folder, would make certain.
        let mut pending: BTreeMap<Synced, Vec<(usize, Place)>> = BTreeMap::new();
        for event in events {
            let number = disk.changes.len();
            let file = |path: &Path| {
                names
                    .get(path)
                    .copied()
                    .ok_or_else(|| format!("{} was never made", path.display()))
            };
            let (what, by) = match &event.call {
                Call::Send { .. } => continue,
                Call::Write { path, .. }
                | Call::SetLength { path, .. }
                | Call::OpenOrMake(path)
                | Call::Remove(path)
                    if is_index(path) =>
                {
                    continue;
                }
                Call::OpenOrMake(path) if names.contains_key(path.as_path()) => continue,
                Call::OpenOrMake(path) => {
                    names.insert(path, number);
                    (What::Make(path.clone(), number), Synced::folder_of(path))
                }
                Call::MakeFolder(path) => (What::MakeFolder(path.clone()), Synced::folder_of(path)),
                Call::Remove(path) => {
                    names.remove(path.as_path());
                    (What::Remove(path.clone()), Synced::folder_of(path))
                }
                Call::Write { path, offset, bytes } => {
                    let (file, offset, bytes) = (file(path)?, *offset, bytes.clone());
                    (What::Write { file, offset, bytes }, Synced::File(file))
                }
                Call::SetLength { path, length } => {
                    let (file, length) = (file(path)?, *length);
                    (What::SetLength { file, length }, Synced::File(file))
                }
                Call::Sync(path) => {
                    let Some(ended) = event.ended else { continue };
                    disk.syncs.push(ended);
                    let what = names
                        .get(path.as_path())
                        .map_or_else(|| Synced::Folder(path.clone()), |file| Synced::File(*file));
                    if let Some(changes) = pending.get_mut(&what) {
                        for (change, _) in changes.extract_if(.., |(_, done)| *done < event.began) {
                            let certain = &mut disk.changes[change].certain;
                            *certain = Some(certain.map_or(ended, |earlier| earlier.min(ended)));
                        }
                    }
                    continue;
                }
            };
            if let Some(ended) = event.ended {
                pending.entry(by).or_default().push((number, ended));
            }
            disk.changes.push(Change {
                began: event.began,
                certain: None,
                what,
            });
        }
        disk.syncs.sort_unstable();
        Ok(disk)
    }

    /// A moment for the power to go: at random after a sync of any file that was chosen at random, and before the next
    /// one has ended.
    pub(crate) fn moment(&self, chance: &mut impl Rng) -> Place {
        let after = chance.random_range(0..self.syncs.len());
        let begin = self.syncs[after] + 1;
        let end = self.syncs.get(after + 1).map_or(begin, |next| *next);
        chance.random_range(begin..=end.max(begin))
    }

    /// What may be there if the power goes just before the line `cut`.
    pub(crate) fn after_cut(&self, cut: Place, luck: Luck, chance: &mut impl Rng) -> Image {
        let begun = self.changes.iter().take_while(|change| change.began < cut);
        let kept: Vec<(bool, &What)> = begun
            .filter_map(|change| {
                let is_certain = change.certain.is_some_and(|certain| certain < cut);
                let is_kept = match luck {
                    Luck::None => is_certain,
                    Luck::Half => is_certain || chance.random(),
                    Luck::All => true,
                };
                is_kept.then_some((is_certain, &change.what))
            })
            .collect();
        let is_torn = |(is_certain, what): &(bool, &What)| !is_certain && matches!(what, What::Write { .. });
        let torn = kept.iter().rposition(is_torn);
        let mut contents: BTreeMap<File, Vec<u8>> = BTreeMap::new();
        let mut names: BTreeMap<&Path, File> = BTreeMap::new();
        let mut folders = BTreeSet::from([self.folder.as_path()]);
        for (number, (_, what)) in kept.into_iter().enumerate() {
            match what {
                What::MakeFolder(path) => drop(folders.insert(path)),
                What::Make(path, file) => drop(names.insert(path, *file)),
                What::Remove(path) => drop(names.remove(path.as_path())),
                What::Write { file, offset, bytes } => {
                    let content = contents.entry(*file).or_default();
                    for (offset, bytes) in sectors(*offset, bytes) {
                        if torn != Some(number) || chance.random() {
                            write(content, offset, bytes);
                        }
                    }
                }
                What::SetLength { file, length } => contents.entry(*file).or_default().resize(*length, 0),
            }
        }
        // What is in a folder that is not there is not there either.
        let has_way = |path: &Path| {
            let mut above = path
                .ancestors()
                .skip(1)
                .take_while(|above| above.starts_with(&self.folder));
            above.all(|above| folders.contains(above))
        };
        let below = |path: &Path| path.strip_prefix(&self.folder).expect("it is in the folder").to_owned();
        let files = names.into_iter().filter(|(path, _)| has_way(path));
        Image {
            folders: folders
                .iter()
                .filter(|path| has_way(path))
                .map(|path| below(path))
                .collect(),
            files: files
                .map(|(path, file)| (below(path), contents.remove(&file).unwrap_or_default()))
                .collect(),
        }
    }
}

impl Image {
    /// Lays it out in another folder.
    pub(crate) fn write_to(&self, folder: &Path) -> io::Result<()> {
        for path in &self.folders {
            std::fs::create_dir_all(folder.join(path))?;
        }
        for (path, content) in &self.files {
            std::fs::write(folder.join(path), content)?;
        }
        Ok(())
    }
}

impl fmt::Display for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files.iter().map(|(path, content)| (path, content.len()));
        formatter.debug_map().entries(files).finish()
    }
}

/// What is synced together.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Synced {
    File(File),
    /// The names in it.
    Folder(PathBuf),
}

impl Synced {
    fn folder_of(path: &Path) -> Self {
        Self::Folder(path.parent().unwrap_or(path).to_owned())
    }
}

/// The parts of a write that lie in a sector each.
fn sectors(mut offset: usize, mut bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    std::iter::from_fn(move || {
        let (part, rest) = bytes.split_at(bytes.len().min(SECTOR - offset % SECTOR));
        let at = offset;
        offset += part.len();
        bytes = rest;
        (!part.is_empty()).then_some((at, part))
    })
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}
