use std::os::fd::AsFd;
use std::time::Instant;
fn main() {
    let dir = std::fs::File::open(std::env::args().nth(1).unwrap()).unwrap();
    for path in std::env::args().skip(2) {
        let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let Ok(profile) = serde_json::from_value(spec["linux"]["seccomp"].clone()) else {
            println!("{path}: none");
            continue;
        };
        let best = |f: &dyn Fn() -> secmodel::Filter| {
            (0..50)
                .map(|_| {
                    let t = Instant::now();
                    let _ = f();
                    t.elapsed()
                })
                .min()
                .unwrap()
        };
        let n = secmodel::seccomp::compile(&profile).map(|f| f.program.len() / 8);
        let Ok(n) = n else {
            println!("{path}: {}", n.unwrap_err());
            continue;
        };
        let c = best(&|| secmodel::seccomp::compile(&profile).unwrap());
        let t = Instant::now();
        let _ = secmodel::seccomp::cached(&profile, dir.as_fd()).unwrap();
        let miss = t.elapsed();
        let t = Instant::now();
        let _ = secmodel::seccomp::cached(&profile, dir.as_fd()).unwrap();
        let first = t.elapsed();
        let h = best(&|| secmodel::seccomp::cached(&profile, dir.as_fd()).unwrap());
        println!("{path}: {n} instructions, compile {c:?}, miss {miss:?}, first hit {first:?}, hit {h:?}");
    }
    let p = secmodel::profile::default();
    let t = Instant::now();
    let f = secmodel::seccomp::compile(&p).unwrap();
    println!("default: {} instructions, {:?}", f.program.len() / 8, t.elapsed());
}
