//! Many verbs at once: on many jails, and on the same one.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tests::{Bundle, Done, Host, left_nothing, processes, require_root, stage};

#[test]
fn a_hundred_jails_live_at_once() {
    if !require_root() {
        return;
    }
    let (first, host) = stage();
    let bundles: Vec<(Bundle, Host)> = (0..100)
        .map(|_| {
            let (mut bundle, host) = stage();
            // One store for all of them.
            bundle.root.clone_from(&first.root);
            bundle.args(&["sleep", "1000"]);
            (bundle, host)
        })
        .collect();
    let (start, created) = (Barrier::new(bundles.len()), Barrier::new(bundles.len()));
    let live = || {
        let table = first.list().ok();
        table.lines().filter(|line| line.contains(" running ")).count()
    };
    std::thread::scope(|scope| {
        for (bundle, _) in &bundles {
            scope.spawn(|| {
                start.wait();
                let made = bundle.create();
                let begun = made.is_ok().then(|| bundle.start());
                // Whoever fails must still let the others on.
                if created.wait().is_leader() {
                    assert_eq!(live(), bundles.len());
                }
                created.wait();
                let deleted = bundle.delete_force();
                made.ok();
                begun.expect("it was made").ok();
                deleted.ok();
            });
        }
    });
    for (bundle, host) in &bundles {
        left_nothing(bundle, host);
    }
    left_nothing(&first, &host);
}

#[test]
fn a_racing_create_has_one_winner() {
    if !require_root() {
        return;
    }
    const RACERS: usize = 30;
    for _ in 0..5 {
        let (mut bundle, host) = stage();
        bundle.args(&["sleep", "1000"]).write();
        let start = Barrier::new(RACERS);
        let done: Vec<Done> = std::thread::scope(|scope| {
            let create = || {
                start.wait();
                bundle.call(&["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])
            };
            let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(create)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let (winners, losers): (Vec<Done>, Vec<Done>) = done.into_iter().partition(Done::is_ok);
        for loser in losers {
            assert!(loser.fails().contains("already exists"));
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(bundle.status().as_deref(), Some("created"));
        assert_eq!(processes::with_word(&bundle.id), [bundle.pid().unwrap()], "one process 1");
        bundle.start().ok();
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn racing_deletes_all_succeed_by_force() {
    if !require_root() {
        return;
    }
    for _ in 0..5 {
        let (mut bundle, host) = stage();
        bundle.start_sleeper();
        let start = Barrier::new(10);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    start.wait();
                    bundle.delete_force().ok();
                });
            }
        });
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_delete_that_races_with_a_start_leaves_nothing() {
    if !require_root() {
        return;
    }
    for _ in 0..20 {
        let (mut bundle, host) = stage();
        bundle.args(&["sleep", "1000"]).create().ok();
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                let begun = bundle.start();
                assert!(begun.is_ok() || begun.err.lines().count() == 1, "{begun}");
            });
            start.wait();
            bundle.delete_force().ok();
        });
        left_nothing(&bundle, &host);
    }
}

/// Whoever reads a status while others work sees one that the specification knows.
#[test]
fn list_and_state_never_fail_while_jails_come_and_go() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.args(&["sleep", "1000"]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = || {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                let text = bundle.call(&["list", "--format", "json"]).ok();
                let all: Vec<Value> = serde_json::from_str(&text).unwrap();
                let status = all.first().map_or("none", |jail| jail["status"].as_str().unwrap());
                assert!(["none", "creating", "created", "running", "stopped"].contains(&status), "{text}");
                let state = bundle.state();
                assert!(state.is_ok() || state.fails().contains("does not exist"));
                looks += 1;
            }
            looks
        };
        let looker = scope.spawn(looks);
        let mut made = Vec::new();
        for _ in 0..30 {
            made.extend([bundle.create(), bundle.start(), bundle.delete_force()]);
        }
        done.store(true, Ordering::Relaxed);
        assert!(looker.join().unwrap() > 30);
        made.into_iter().for_each(|done| drop(done.ok()));
    });
    left_nothing(&bundle, &host);
}
