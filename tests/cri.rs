//! The kubelet's side: pods and containers by the container runtime interface of containerd, with the binary under test as
//! one class of runtime and Debian's runc, the reference, as the other.

mod api;
mod client;
mod stream;

use api::*;
use client::Client;
use stream::listen;
use tests::callers::{Containerd, EATER, LIMIT_OF_MEMORY};
use tests::{Named, image, wait_for};

const RUNNING: i32 = 1;
const EXITED: i32 = 2;
/// The mode of a name space that all containers of a pod share.
const POD: i32 = 0;
/// The mode of one that each container has for itself.
const CONTAINER: i32 = 1;

/// A pod on a containerd.
struct Pod<'a> {
    containerd: &'a Containerd,
    client: &'a Client,
    id: String,
    config: SandboxConfig,
}

impl Pod<'_> {
    fn call<A: prost::Message + Default>(&self, method: &str, question: &impl prost::Message) -> A {
        self.client.call(method, question).unwrap_or_else(|error| panic!("{error}\n{}", self.containerd.log()))
    }

    /// What a container is created from, before a test says what is special with it.
    fn config(&self, name: &str, words: &[&str]) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerName { name: name.to_string() }),
            image: Some(Image { image: image::BUSYBOX.to_string() }),
            command: strings(words),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainer {
                resources: Some(Resources::default()),
                security: Some(Security {
                    name_spaces: Some(NameSpaces { pid: CONTAINER }),
                    seccomp: Some(Profile { kind: 0 }),
                    ..Security::default()
                }),
            }),
            ..ContainerConfig::default()
        }
    }

    fn create(&self, config: ContainerConfig) -> String {
        let sandbox_config = Some(self.config.clone());
        let create = CreateContainer { sandbox: self.id.clone(), config: Some(config), sandbox_config };
        self.call::<Container>("CreateContainer", &create).id
    }

    fn start(&self, config: ContainerConfig) -> String {
        let id = self.create(config);
        self.call::<Empty>("StartContainer", &Container { id: id.clone() });
        id
    }

    fn status(&self, id: &str) -> ContainerStatus {
        self.call::<ContainerStatusAnswer>("ContainerStatus", &Container { id: id.to_string() }).status.unwrap()
    }

    fn ended(&self, id: &str) -> ContainerStatus {
        wait_for("the end of a container", || self.status(id).state == EXITED);
        self.status(id)
    }

    /// The exit code of a command in a container, and its output.
    fn exec(&self, id: &str, words: &[&str]) -> (i32, String) {
        let exec = ExecSync { id: id.to_string(), command: strings(words), timeout: 60 };
        let answer = self.call::<ExecSyncAnswer>("ExecSync", &exec);
        (answer.exit_code, String::from_utf8(answer.stdout).unwrap())
    }

    fn log(&self, name: &str) -> String {
        let path = format!("{}/{name}.log", self.config.log_directory);
        std::fs::read_to_string(self.containerd.room.seen(&path)).unwrap_or_default()
    }

    fn remove(&self, id: &str) {
        self.call::<Empty>("RemoveContainer", &Container { id: id.to_string() });
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// Runs SCENARIO in a pod of each runtime, and looks each time whether anything is left.
fn in_a_pod(scenario: impl Fn(&Pod)) {
    let Some(containerd) = Containerd::start() else { return };
    let client = Client::connect(&containerd.room.seen(&containerd.room.path("containerd/sock")));
    for runtime in containerd.room.runtimes() {
        println!("with {}", runtime.name);
        let config = sandbox(&containerd, &runtime);
        let run = RunSandbox { config: Some(config.clone()), runtime_handler: runtime.name.clone() };
        let id = client.call::<Sandbox>("RunPodSandbox", &run).unwrap_or_else(|error| panic!("{error}")).id;
        let pod = Pod { containerd: &containerd, client: &client, id, config };
        scenario(&pod);
        let sandbox = Sandbox { id: pod.id.clone() };
        pod.call::<Empty>("StopPodSandbox", &sandbox);
        pod.call::<Empty>("RemovePodSandbox", &sandbox);
        containerd.room.assert_empty(&runtime, "/run/containerd/runc/k8s.io");
    }
    containerd.room.close();
}

fn sandbox(containerd: &Containerd, runtime: &Named) -> SandboxConfig {
    SandboxConfig {
        metadata: Some(Metadata {
            name: runtime.name.clone(),
            uid: format!("{}-{}", runtime.name, containerd.room.id),
            namespace: "default".to_string(),
        }),
        hostname: "pod".to_string(),
        log_directory: containerd.room.path(&format!("logs-{}", runtime.name)),
        linux: Some(LinuxSandbox { cgroup_parent: format!("/{}", containerd.room.id) }),
    }
}

#[test]
fn the_kubelet_leads_a_container_from_its_start_to_its_end() {
    in_a_pod(|pod| {
        let status = pod.call::<SandboxStatusAnswer>("PodSandboxStatus", &Sandbox { id: pod.id.clone() });
        let status = status.status.unwrap();
        assert!(status.state == 0 && status.network.unwrap().ip.starts_with("10.77.0."));
        let mut config = pod.config("life", &["sh", "-c", "hostname; echo oh >&2; sleep 1000"]);
        let linux = config.linux.as_mut().unwrap();
        let limits =
            Resources { memory_limit: 64 << 20, cpu_period: 100_000, cpu_quota: 50_000, ..Resources::default() };
        linux.resources = Some(limits.clone());
        let id = pod.start(config);
        assert_eq!(pod.status(&id).state, RUNNING);
        wait_for("both lines of the log", || pod.log("life").lines().count() == 2);
        let log = pod.log("life");
        assert!(log.contains(" stdout F pod\n") && log.contains(" stderr F oh\n"), "{log}");
        assert_eq!(pod.exec(&id, &["sh", "-c", "echo inside; exit 3"]), (3, "inside\n".to_string()));
        assert_eq!(pod.exec(&id, &LIMIT_OF_MEMORY), (0, "67108864\n".to_string()));
        let update = Resources { memory_limit: 80 << 20, ..limits };
        pod.call::<Empty>("UpdateContainerResources", &Update { id: id.clone(), linux: Some(update) });
        assert_eq!(pod.exec(&id, &LIMIT_OF_MEMORY), (0, "83886080\n".to_string()));
        let stats = pod.call::<StatsAnswer>("ContainerStats", &Container { id: id.clone() }).stats.unwrap();
        for usage in [stats.cpu, stats.memory] {
            assert!(usage.unwrap().amount.unwrap().value > 0);
        }
        // One that does not end in time is killed, and the container is not.
        let slow = ExecSync { id: id.clone(), command: strings(&["sleep", "1000"]), timeout: 1 };
        assert!(pod.client.call::<ExecSyncAnswer>("ExecSync", &slow).unwrap_err().contains("timeout"));
        assert_eq!(pod.status(&id).state, RUNNING);
        pod.call::<Empty>("StopContainer", &StopContainer { id: id.clone(), timeout: 1 });
        assert_eq!(pod.ended(&id).exit_code, 137);
        pod.remove(&id);
    });
}

#[test]
fn the_kubelet_attaches_to_a_container_and_executes_in_it() {
    in_a_pod(|pod| {
        let room = &pod.containerd.room;
        let mut config = pod.config("typed", &["sh", "-c", "tty; read line; echo got $line; exit 4"]);
        (config.stdin, config.stdin_once, config.tty) = (true, true, true);
        let id = pod.start(config);
        let exec = Exec {
            id: id.clone(),
            command: strings(&["sh", "-c", "read line; echo got $line; echo oh >&2; exit 3"]),
            tty: false,
            stdin: true,
            stdout: true,
            stderr: true,
        };
        let url = pod.call::<Url>("Exec", &exec).url;
        let heard = listen(room, &url, "this\n");
        assert_eq!((heard.stdout.as_str(), heard.stderr.as_str()), ("got this\n", "oh\n"), "{heard:?}");
        assert!(heard.status.contains("ExitCode") && heard.status.contains("\"3\""), "{heard:?}");
        let exec = Exec { tty: true, stderr: false, command: strings(&["tty"]), ..exec };
        let heard = listen(room, &pod.call::<Url>("Exec", &exec).url, "");
        assert!(heard.stdout.contains("/dev/pts/") && heard.status.contains("Success"), "{heard:?}");
        let attach = Attach { id: id.clone(), stdin: true, tty: true, stdout: true, stderr: false };
        let heard = listen(room, &pod.call::<Url>("Attach", &attach).url, "that\n");
        assert!(heard.stdout.contains("got that"), "{heard:?}");
        assert_eq!(pod.ended(&id).exit_code, 4);
        assert!(pod.log("typed").contains("/dev/pts/0"));
        pod.remove(&id);
    });
}

#[test]
fn the_kubelet_gets_what_a_security_context_asks_for() {
    in_a_pod(|pod| {
        let mut config = pod.config("weak", &["sleep", "1000"]);
        config.linux.as_mut().unwrap().security = Some(Security {
            capabilities: Some(Capabilities { drop: strings(&["ALL"]) }),
            name_spaces: Some(NameSpaces { pid: POD }),
            user: Some(Value { value: 65534 }),
            read_only: true,
            no_new_privs: true,
            masked_paths: strings(&["/proc/keys"]),
            seccomp: Some(Profile { kind: 0 }),
        });
        let id = pod.start(config);
        let script = "id -u; touch /x 2>&1; cat /proc/keys; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; ps";
        let (_, shown) = pod.exec(&id, &["sh", "-c", script]);
        let bits = ["65534\n", "Read-only file system", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"];
        // The first process of the pod is that of its pause container.
        for part in bits.iter().chain(&["sleep 1000000"]) {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
        pod.call::<Empty>("StopContainer", &StopContainer { id: id.clone(), timeout: 0 });
        pod.remove(&id);
    });
}

#[test]
fn the_kubelet_learns_why_a_container_ended_or_did_not_start() {
    in_a_pod(|pod| {
        let mut config = pod.config("eater", &EATER);
        config.linux.as_mut().unwrap().resources = Some(Resources { memory_limit: 16 << 20, ..Resources::default() });
        let id = pod.start(config);
        let status = pod.ended(&id);
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        pod.remove(&id);
        let id = pod.create(pod.config("missing", &["/no/such/program"]));
        let error = pod.client.call::<Empty>("StartContainer", &Container { id: id.clone() }).unwrap_err();
        assert!(error.contains("/no/such/program") && error.contains("no such file or directory"), "{error}");
        assert_eq!(pod.status(&id).exit_code, 128);
        pod.remove(&id);
    });
}
