//! The service's writes, truncations and syncs are recorded, payloads included, while clients make it promise things;
//! then its folder is rebuilt as a power cut may have left it, at many moments and with much or little luck, and opened
//! again. A copy of the live files would prove nothing: it is read through the page cache, where nothing is ever lost.
//!
//! `POWER_CUT` says how many images are tried, and needs strace to be installed. Without it only the parts are tested.

mod answers;
mod disk;
mod load;
mod parts;
#[path = "../process/mod.rs"]
mod process;
mod recording;
mod trace;
mod verdict;

use self::disk::Luck;
use self::recording::Recording;
use self::verdict::{Verdict, judge};

/// How many images to try; none if nobody asks for it.
fn images() -> Option<usize> {
    let images = std::env::var_os("POWER_CUT")?;
    let images = images.to_str().and_then(|images| images.parse().ok());
    Some(images.expect("POWER_CUT is a number"))
}

/// Cuts the power at many moments; what each image was found to be.
async fn cut_power(recording: &Recording, images: usize) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for image in 0..images {
        let mut chance = rand::rng();
        let cut = recording.disk.moment(&mut chance);
        let luck = [Luck::None, Luck::Half, Luck::Half, Luck::All][image % 4];
        let folder = tempfile::tempdir().expect("a folder can be made");
        let left = recording.disk.after_cut(cut, luck, &mut chance);
        left.write_to(folder.path()).expect("it is laid out");
        let image = format!("{luck:?} of what was not certain at line {cut}: {left}");
        verdicts.push(judge(folder.path(), image, cut, recording).await);
    }
    verdicts
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_outlives_a_power_cut() {
    let Some(images) = images() else {
        println!("POWER_CUT is not set: no power is cut");
        return;
    };
    let recording = Recording::make("full").await;
    for verdict in cut_power(&recording, images).await {
        assert!(verdict.lost.is_empty() && verdict.wrong.is_empty(), "{verdict}");
    }
}

/// The same check must be able to fail; and what `normal` promises it keeps: nothing is ever half there.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_sync_at_each_commit_a_power_cut_loses_some() {
    let Some(images) = images() else {
        println!("POWER_CUT is not set: no power is cut");
        return;
    };
    let recording = Recording::make("normal").await;
    let verdicts = cut_power(&recording, images.div_ceil(4)).await;
    for verdict in &verdicts {
        assert!(verdict.wrong.is_empty(), "{verdict}");
    }
    let losses = verdicts.iter().filter(|verdict| !verdict.lost.is_empty()).count();
    assert!(losses > 0, "of {} images none lost anything", verdicts.len());
}
