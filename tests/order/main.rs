//! `order PROGRAM`: prints which functions the hot verbs execute, as cli/order.txt has them (`make order`).
//!
//! PROGRAM is a release build that kept its symbols. Each of its functions gets a trap, in the runtime and in what it
//! clones until that becomes another program.

mod name;
mod trap;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{ExitCode, Stdio};

use name::{Names, Place};
use serde_json::Value;
use tests::{Bundle, Runtime};
use trap::Entered;

/// The file's first lines.
const HEAD: &str = "\
# What a run executes, for cli/build.rs: `make order` writes this file. It is about memory only: a name that is missing,
# or that no function has any more, costs a few pages and nothing else.
#
# One line is the words of a Rust path without hashes and generics' brackets, then the last words of those that begin
# alike. `c:` are object files of C libraries, `plain:` functions without mangling.
";

fn main() -> ExitCode {
    let Some(program) = std::env::args().nth(1) else {
        eprintln!("order: usage: order PROGRAM");
        return ExitCode::from(2);
    };
    let names = match Names::of(&program) {
        Ok(names) => names,
        Err(error) => {
            eprintln!("order: {error}");
            return ExitCode::FAILURE;
        }
    };
    let functions = names.functions();
    let (mut run, mut full_run, mut life) = (Entered::default(), Entered::default(), Entered::default());
    for full in [false, true] {
        let mut bundle = Bundle::of(Runtime::of(&program));
        if full {
            let profile: Value = serde_json::from_str(include_str!("../bench/profile.json")).expect("a profile");
            bundle.full().set("/linux/seccomp", profile);
            // A filter is compiled once, and is in the cache from then on.
            bundle.run().ok();
        }
        bundle.write();
        let (dir, id) = (bundle.dir.to_string_lossy().into_owned(), bundle.id.clone());
        let follow = |bundle: &Bundle, words: &[&str], entered: &mut Entered| {
            trap::run(bundle.command(words).stdout(Stdio::null()), &functions, entered);
        };
        follow(&bundle, &["run", "--bundle", &dir, &id], if full { &mut full_run } else { &mut run });
        // Its process 1 outlives it, so it is not followed: it does what a run does.
        bundle.args(&["sleep", "1000"]).create().ok();
        for words in [&["start", &id][..], &["exec", &id, "true"], &["state", &id], &["delete", "--force", &id]] {
            follow(&bundle, words, &mut life);
        }
    }
    run.below.extend(full_run.below);
    life.main.extend(life.below);
    let mut above = BTreeSet::new();
    print!("{HEAD}");
    for (title, addresses) in [
        ("Process 1 of the jail, which shares most of it with the runtime", run.below),
        ("The runtime in a run", run.main),
        ("The runtime in a run of what a container manager asks for", full_run.main),
        ("The other verbs of a life", life.main),
    ] {
        let mut places: BTreeSet<Place> = addresses.iter().filter_map(|address| names.at(*address)).collect();
        places.retain(|place| above.insert(place.clone()));
        print!("\n# {title}.\n{}", lines(&places));
    }
    ExitCode::SUCCESS
}

/// Sorted, and what differs in its last word only is on one line.
fn lines(places: &BTreeSet<Place>) -> String {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for place in places {
        groups.entry(&place.group).or_default().insert(&place.word);
    }
    let line = |(group, last): (&str, BTreeSet<&str>)| format!("{group}: {}\n", Vec::from_iter(last).join(" "));
    groups.into_iter().map(line).collect()
}
