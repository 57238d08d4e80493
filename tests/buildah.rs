//! buildah, with the binary under test as its runtime and with Debian's runc as the reference.

use tests::callers::Podman;
use tests::image::BUSYBOX;
use tests::terminal::under_terminal;
use tests::{Named, installed};

const DOCKERFILE: &str = "FROM @
RUN echo one > /one
RUN test $(cat /one) = one && echo two > /two
RUN adduser -D -u 1000 user 2> /dev/null || echo user:x:1000:1000::/:/bin/sh >> /etc/passwd
USER 1000
RUN id -u > /tmp/user && ! touch /forbidden 2> /dev/null
USER 0
RUN grep -q Seccomp:.2 /proc/self/status && touch /end
CMD [\"cat\", \"/two\", \"/tmp/user\"]
";

/// Runs SCENARIO with each runtime, and looks each time whether anything is left.
fn with_each_runtime(scenario: impl Fn(&Podman, &Named)) {
    let Some(podman) = installed("buildah").then(Podman::new).flatten() else { return };
    for runtime in podman.room.runtimes() {
        println!("with {}", runtime.name);
        scenario(&podman, &runtime);
        podman.room.assert_empty(&runtime, &Podman::store(&runtime));
    }
    podman.room.close();
}

/// What buildah calls the parent is the cgroup of its containers itself.
fn cgroup(podman: &Podman) -> String {
    format!("/{}/work", podman.room.id)
}

#[test]
fn buildah_runs_commands_in_a_working_container() {
    with_each_runtime(|podman, runtime| {
        let call = |words: &[&str]| podman.room.finish(podman.buildah(runtime, words));
        call(&["from", "--name", "work", "--cgroup-parent", &cgroup(podman), BUSYBOX]).ok();
        let done = call(&["run", "work", "sh", "-c", "echo hello; touch /made; exit 3"]);
        assert_eq!((done.out.trim(), done.code()), ("hello", Some(3)), "{done}");
        // What buildah asks for and nobody can have is one line, not one for each capability.
        let said = done.err.lines().filter(|line| line.starts_with("jail: ")).count();
        assert!(said <= 1, "{done}");
        let done = call(&["run", "--user", "65534", "--network", "none", "work", "sh", "-c", "id -u; ls /made"]);
        assert_eq!(done.ok(), "65534\n/made\n");
        let done = under_terminal(&podman.buildah(runtime, &["run", "--tty", "work", "tty"]), "");
        assert!(done.is_ok() && done.out.contains("/dev/pts/0"), "{done}");
        call(&["rm", "work"]).ok();
    });
}

#[test]
fn buildah_builds_an_image_by_five_commands() {
    with_each_runtime(|podman, runtime| {
        podman.room.write("context/Dockerfile", DOCKERFILE.replace('@', BUSYBOX));
        let (context, cgroup) = (podman.room.path("context"), cgroup(podman));
        let words = ["build", "--network", "none", "--cgroup-parent", &cgroup, "--tag", "built", &context];
        let done = podman.room.finish(podman.buildah(runtime, &words));
        assert!(done.is_ok() && done.out.matches(": RUN").count() == 5, "{done}");
        let run = ["run", "--rm", "--network", "none", "--cgroup-parent", &format!("/{}", podman.room.id), "built"];
        assert_eq!(podman.call(runtime, &run).ok(), "two\n1000\n");
        podman.room.finish(podman.buildah(runtime, &["rmi", "built"])).ok();
    });
}
