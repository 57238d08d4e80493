//! What was typed. Nothing here looks at the system.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args as Group, Parser, Subcommand, ValueEnum};
use runtime::log::Format;

/// What `--version` says behind the name, in the three lines that go-runc parses; the tests hold the last one to
/// [`runtime::check::VERSION`].
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\ncommit: unknown\nspec: 1.2.1");

/// Jails for Linux: make, start, look into, end.
#[derive(Debug, Parser)]
#[command(name = "jail", version = VERSION, disable_version_flag = true, args_override_self = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

// What holds for every verb.
#[derive(Debug, Group)]
pub(crate) struct Globals {
    /// Folder of the jails' state
    #[arg(
        long,
        value_name = "DIR",
        help = "Folder of the jails' state [default: /run/jail, or $XDG_RUNTIME_DIR/jail]"
    )]
    root: Option<PathBuf>,
    /// File that errors and warnings are appended to
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// How a line of the log looks
    #[arg(long, value_enum, default_value_t = LogFormat::Text, hide_possible_values = false)]
    log_format: LogFormat,
    /// Say each step on the host
    #[arg(long)]
    pub(crate) debug: bool,
    /// Let systemd make the cgroups of a new jail
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Accepted for runc's callers: the kernel says whether the caller is root
    #[arg(long, hide = true, value_name = "BOOL", value_parser = ["true", "false", "auto"])]
    rootless: Option<String>,
    /// Accepted for runc's callers: there is no checkpoint that could use it
    #[arg(long, hide = true, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// Print version
    #[arg(short, short_alias = 'V', long, action = ArgAction::Version)]
    version: (),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Globals {
    /// The store.
    pub(crate) fn root(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(runtime::store::default)
    }

    pub(crate) fn format(&self) -> Format {
        match self.log_format {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Make a jail; its program waits for `start`
    Create(Create),
    /// Start the program of a created jail
    Start(Named),
    /// Make a jail, start it, wait for its end and remove it
    Run(Run),
    /// Run another program in a running jail
    Exec(Exec),
    /// Send a signal to a jail
    Kill(Kill),
    /// Freeze all processes of a jail
    Pause(Named),
    /// Let a paused jail run again
    Resume(Named),
    /// Change limits of a jail that lives
    Update(crate::update::Update),
    /// Show what happens to a jail, and what it uses
    Events(crate::events::Events),
    /// Remove a stopped jail
    Delete(Delete),
    /// Remove what interrupted verbs have left
    Cleanup,
    /// Show the state of a jail as JSON
    State(Named),
    /// Show all jails
    #[command(visible_alias = "ls")]
    List(List),
    /// Show the processes of a jail
    Ps(Ps),
    /// Refused: not carried out yet
    #[command(hide = true, disable_help_flag = true)]
    Checkpoint(Refused),
    /// Refused: not carried out yet
    #[command(hide = true, disable_help_flag = true)]
    Restore(Refused),
    /// Write a config.json to start from
    Spec(Spec),
    /// Show what this program can do, as JSON
    Features,
}

// A verb that takes a name and nothing else.
#[derive(Debug, Group)]
pub(crate) struct Named {
    /// Name of the jail
    pub(crate) id: String,
}

// A verb that is known and not carried out. It takes whatever callers send, `--help` too: podman takes the success of
// that for support.
#[derive(Debug, Group)]
pub(crate) struct Refused {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _words: Vec<OsString>,
}

// What a jail is made from.
#[derive(Debug, Group)]
pub(crate) struct Create {
    /// Name of the jail
    pub(crate) id: String,
    /// Folder of an OCI bundle, in the place of the default root
    #[arg(short, long, value_name = "DIR")]
    pub(crate) bundle: Option<PathBuf>,
    /// Tree that the default root is cloned from
    #[arg(long, value_name = "DIR", default_value = "/", conflicts_with = "bundle")]
    pub(crate) from: PathBuf,
    /// Socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that gets the number of process 1
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Refused: the root is always changed by pivot_root(2)
    #[arg(long, hide = true)]
    pub(crate) no_pivot: bool,
    /// Accepted for runc's callers: nothing becomes a subreaper
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// Pass N descriptors on, from 3 (behind those of $LISTEN_FDS)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) preserve_fds: u32,
    /// Print the plan and touch nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Program and arguments, on the default root
    #[arg(last = true, value_name = "COMMAND", conflicts_with = "bundle")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) create: Create,
    /// Do not wait for the end
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep the jail after its end
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Exec {
    /// Name of the jail
    pub(crate) id: String,
    /// File with the OCI document of the process
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["command", "cwd", "env", "user", "cap", "apparmor", "process_label"])]
    pub(crate) process: Option<PathBuf>,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// Add NAME=VALUE to the environment
    #[arg(short, long, value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub(crate) env: Vec<String>,
    /// Run as UID[:GID]
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Additional group
    #[arg(short = 'g', long, value_name = "GID", action = ArgAction::Append)]
    pub(crate) additional_gids: Vec<u32>,
    /// Add a capability
    #[arg(short, long, value_name = "CAP", action = ArgAction::Append)]
    pub(crate) cap: Vec<String>,
    /// Let it gain no privileges
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// Refused: the process joins the cgroup of the jail itself
    #[arg(long, hide = true, value_name = "PATH", action = ArgAction::Append)]
    pub(crate) cgroup: Vec<String>,
    /// Refused: the process would be born frozen
    #[arg(long, hide = true)]
    pub(crate) ignore_paused: bool,
    /// Do not wait for the end
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that gets the number of the process
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Pass N descriptors on, from 3 (behind those of $LISTEN_FDS)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) preserve_fds: u32,
    /// Program and arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Group)]
pub(crate) struct Kill {
    /// Name of the jail
    pub(crate) id: String,
    /// Name or number of the signal
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
    /// To every process of the jail
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Delete {
    /// Name of the jail
    pub(crate) id: String,
    /// End it first; succeed where there is none
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Group)]
pub(crate) struct List {
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = Show::Table)]
    pub(crate) format: Show,
    /// Names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Show {
    Table,
    Json,
}

#[derive(Debug, Group)]
pub(crate) struct Ps {
    /// How to show them; as JSON, their numbers only
    #[arg(short, long, value_enum, default_value_t = Show::Table)]
    pub(crate) format: Show,
    /// Name of the jail
    pub(crate) id: String,
    /// Options for ps(1), in the place of -ef
    #[arg(value_name = "PS-ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<OsString>,
}

#[derive(Debug, Group)]
pub(crate) struct Spec {
    /// Folder that gets config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// For a jail whose root is the user who asks
    #[arg(long)]
    pub(crate) rootless: bool,
}

impl Command {
    /// How many descriptors the caller asks to pass on; `None` for a verb that starts no program.
    pub(crate) fn descriptors(&self) -> Option<u32> {
        match self {
            Self::Create(verb) => Some(verb.preserve_fds),
            Self::Run(verb) => Some(verb.create.preserve_fds),
            Self::Exec(verb) => Some(verb.preserve_fds),
            _ => None,
        }
    }
}

/// Callers have their own ways: containerd writes one long option with a single dash. The words of a program stay as
/// they are.
pub(crate) fn tolerant(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut ours = true;
    args.map(move |arg| {
        ours &= arg != "--" && arg != "exec" && arg != "ps";
        if ours && arg == "-no-subreaper" { "--no-subreaper".into() } else { arg }
    })
}

/// Where the log is and how its lines look, for words that make no sense as a whole.
pub(crate) fn log(words: &[OsString]) -> (Option<PathBuf>, Format) {
    let value = |flag: &str| {
        words.iter().enumerate().find_map(|(at, word)| match word.to_str()?.strip_prefix(flag)? {
            "" => words.get(at + 1).cloned(),
            rest => rest.strip_prefix('=').map(OsString::from),
        })
    };
    let is_json = value("--log-format").is_some_and(|format| format == "json");
    (value("--log").map(PathBuf::from), if is_json { Format::Json } else { Format::Text })
}

/// Whether this program was called by one of the names that mean the OCI door.
pub(crate) fn is_oci_name() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name.as_ref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    matches!(name, Some("jail-oci" | "runc" | "crun"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn a_long_option_with_one_dash_is_understood() {
        let words = ["jail", "run", "-no-subreaper", "-b", "/x", "a"].map(OsString::from);
        let args = Args::try_parse_from(tolerant(words.into_iter())).unwrap();
        assert!(matches!(args.command, Command::Run(run) if run.create.no_subreaper));
    }

    #[test]
    fn the_words_of_a_program_are_left_alone() {
        let words = ["jail", "exec", "a", "prog", "-no-subreaper"].map(OsString::from);
        let args = Args::try_parse_from(tolerant(words.into_iter())).unwrap();
        assert!(matches!(args.command, Command::Exec(exec) if exec.command == ["prog", "-no-subreaper"]));
    }

    #[test]
    fn a_flag_may_be_given_twice_and_a_list_grows() {
        let words = "jail --debug --debug run -d --detach -b /x -b /y --keep --keep a";
        let args = Args::try_parse_from(words.split(' ')).unwrap();
        let expected = std::path::Path::new("/y");
        assert!(matches!(args.command, Command::Run(run) if run.create.bundle.as_deref() == Some(expected)));
        let args = Args::try_parse_from("jail exec -e A=1 -t --env B=2 --tty a prog".split(' ')).unwrap();
        assert!(matches!(args.command, Command::Exec(exec) if exec.env == ["A=1", "B=2"]));
    }

    #[test]
    fn the_version_names_that_of_the_specification() {
        assert!(VERSION.ends_with(&format!("spec: {}", runtime::check::VERSION)));
    }
}
