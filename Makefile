# Every target with a comment behind two number signs is listed by `make help`.

# Where cargo builds to and for which target; .cargo/config.toml is the one place that names an architecture.
export CARGO_TARGET_DIR ?= target
TARGET := $(or $(CARGO_BUILD_TARGET),$(shell sed -n 's/^target = "\(.*\)"/\1/p' .cargo/config.toml))
RELEASE := $(CARGO_TARGET_DIR)/$(TARGET)/release
DEBUG := $(CARGO_TARGET_DIR)/$(TARGET)/debug

PREFIX ?= /usr/local
DESTDIR ?=

# Words for the benchmark, the fuzzer and the sweep, to be changed on the command line: make bench BENCH='--rounds 200'
BENCH ?= --markdown
FUZZ ?= -max_total_time=60
FAULT ?= sweep --verb create,start,exec,delete --mode main,tree --every 9

# rustup's default place, for shells that do not know it; Debian has runc in /usr/sbin.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
# These replace the flags of .cargo/config.toml, and the binary would silently become a dynamic one.
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | while IFS=@ read -r name text; do printf '%-14s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: root build ## Show a jail: build the program, make a jail on a clone of this host, look around in it, remove it
	@sh demo/demo.sh $(RELEASE)/jail

.PHONY: test
test: tools packages ## Run every test; without root, every test that can do without
	cargo build --workspace --bins --locked
	@[ "$$(id -u)" = 0 ] || echo "make test: not root, so the tests that need it say \"skipped: needs root\""
	cargo test --workspace --locked --no-fail-fast -- --show-output
	$(MAKE) fuzz FUZZ=-max_total_time=10

.PHONY: bench
bench: root build packages ## Measure this program beside crun, runc, bubblewrap and the bare floor (BENCH='--rounds N …')
	cargo build --release --locked -p tests --bins
	JAIL_BIN=$(RELEASE)/jail $(RELEASE)/bench $(BENCH)

.PHONY: order
order: root tools packages ## Write cli/order.txt again: which functions a run executes (after a change of the hot path)
	CARGO_PROFILE_RELEASE_STRIP=false cargo build --release --locked -p cli
	cargo build --release --locked -p tests --bin order
	$(RELEASE)/order $(RELEASE)/jail >$(RELEASE)/order.txt
	mv $(RELEASE)/order.txt cli/order.txt

.PHONY: fault
fault: root tools packages ## Stop the runtime at its system calls and look at what is left: the short sweep (FAULT='sweep …')
	cargo build --workspace --bins --locked
	JAIL_BIN=$(DEBUG)/jail $(DEBUG)/fault $(FAULT)

# How libFuzzer watches: what `cargo fuzz` sets too, but for the sanitizers, which want a nightly compiler. libFuzzer is
# C++ and not for a static program.
SEES := -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
	-C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing

.PHONY: fuzz
fuzz: tools packages ## Change documents and messages at random, beginning with fuzz/corpus (FUZZ='-max_total_time=3600 …')
	cd fuzz && RUSTFLAGS='$(SEES)' cargo build --release --locked --target-dir '$(abspath $(CARGO_TARGET_DIR))/fuzz'
	@for name in config process resources message; do \
	    mkdir -p '$(CARGO_TARGET_DIR)/fuzz/found/'$$name || exit 1; \
	    '$(CARGO_TARGET_DIR)/fuzz/$(TARGET)/release/'$$name $(FUZZ) -close_fd_mask=2 \
	        -artifact_prefix='$(CARGO_TARGET_DIR)/fuzz/'$$name- '$(CARGO_TARGET_DIR)/fuzz/found/'$$name fuzz/corpus/$$name \
	        >'$(CARGO_TARGET_DIR)/fuzz/'$$name.log 2>&1 \
	        || { echo "make fuzz: $$name fails; log and input are in $(CARGO_TARGET_DIR)/fuzz" >&2; exit 1; }; \
	    echo "make fuzz: $$name holds: $$(tail -n1 '$(CARGO_TARGET_DIR)/fuzz/'$$name.log)"; \
	done

.PHONY: lint
lint: tools ## Check format, clippy and, where cargo-deny is installed, licences and sources of the dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then \
	    cargo deny --locked check bans licenses sources; \
	else \
	    echo "make lint: cargo-deny is not installed, so deny.toml was NOT checked (cargo install --locked cargo-deny: some minutes)"; \
	fi

.PHONY: build
build: tools ## Build the release binary, and make sure that it is static
	@[ -z "$(RUSTFLAGS)$(CARGO_ENCODED_RUSTFLAGS)" ] || echo "make: RUSTFLAGS is set and left out: it would replace the flags that make the binary static"
	cargo build --release --locked -p cli
	@case "$$(ldd $(RELEASE)/jail 2>&1)" in \
	*"=>"*) echo "make: $(RELEASE)/jail is not static; which flags did cargo use? (see .cargo/config.toml)" >&2; exit 1 ;; \
	esac

.PHONY: install
install: build ## Install the program, the link jail-oci and the manual page (DESTDIR=, PREFIX=/usr/local)
	install -D -m 755 $(RELEASE)/jail $(DESTDIR)$(PREFIX)/bin/jail
	ln -sf jail $(DESTDIR)$(PREFIX)/bin/jail-oci
	install -D -m 644 man/jail.8 $(DESTDIR)$(PREFIX)/share/man/man8/jail.8

.PHONY: clean
clean: ## Remove what was built
	cargo clean

# What a build needs, and what the tests need in addition; silent and quick where all is there.
.PHONY: tools
tools:
	@sh packages.sh build

.PHONY: packages
packages:
	@sh packages.sh test

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { echo "make: this target makes jails, which needs root" >&2; exit 1; }
