#!/usr/bin/env bash
# emulate-avx512.sh BINARY [ARGS...]
#
# Run a Linux x86-64 program on a CPU with AVX-512 F/BW/DQ/VL/VNNI: directly when
# this host has one, otherwise inside the Bochs emulator (model "Ice Lake U"),
# which boots a Debian kernel whose init runs the program and nothing else.
# stdout and stderr of the program arrive, merged, on stdout; the exit status is
# the program's (128+N for signal N), 99 on timeout, 98 if the harness failed.
# As a cargo runner:  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=/path/to/emulate-avx512.sh
#
#   WHIT_EMU_CACHE    cache folder                [~/.cache/whit-emu]
#   WHIT_EMU_TIMEOUT  seconds before giving up    [900]
#   WHIT_EMU_MEM      guest memory in MiB         [1024]
#   WHIT_EMU_FORCE    1: emulate even on a host with AVX-512
#   WHIT_EMU_KEEP     1: keep the work folder and print its name
#   EXTRA_FILES       host files or folders (space separated, absolute) to place at
#                     the same path in the guest, which is otherwise empty
# RUST_* and WHIT_* variables (but not WHIT_EMU_*) and the current folder's name
# are handed on; a dynamically linked program is given its shared libraries.
#
# Needs Debian (apt-get, no root), gcc, g++, make, xz, binutils.  The first run needs
# the network: it fills the cache, building Bochs (some 4 minutes on one core).
set -Eeuo pipefail

say() { echo "whit-emu: $*" >&2; }
die() { say "$*"; exit 98; }
trap 'die "failed at line $LINENO: $BASH_COMMAND"' ERR

[[ $# -ge 1 && -f $1 ]] || die "usage: ${0##*/} BINARY [ARGS...]"
binary=$(realpath "$1")
shift
if [[ ${WHIT_EMU_FORCE:-0} != 1 ]] && grep -qw avx512_vnni /proc/cpuinfo; then
    exec "$binary" "$@"
fi
cache=$(realpath -m "${WHIT_EMU_CACHE:-$HOME/.cache/whit-emu}")
limit=${WHIT_EMU_TIMEOUT:-900}
kit=$cache/kit-1          # change the number when set_up or write_init changes

# ---- once: the emulator, a kernel, a boot loader and init, into $kit -----------

# apt-get with lists of its own for one suite, checked with Debian's archive keys.
apt_private() { # SUITE TYPE COMMAND...
    local dir=$PWD/apt-$1
    export APT_CONFIG=$dir/apt.conf
    if [[ ! -d $dir ]]; then
        mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
        echo "$2 [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
             "http://deb.debian.org/debian $1 main" > "$dir/sources.list"
        printf '%s;\n' "Dir::Etc::SourceList \"$dir/sources.list\"" \
            'Dir::Etc::SourceParts "-"' "Dir::State::Lists \"$dir/lists\"" \
            "Dir::Cache \"$dir/cache\"" "APT::Sandbox::User \"$(id -un)\"" \
            'Acquire::Retries "3"' > "$APT_CONFIG"
        apt-get update -qq
    fi
    "${@:3}"
}

set_up() { # in an empty folder
    local kernel deb
    # Bochs 3.0 from source: Debian's own build carries the debugger, which makes
    # it slower, and in its version (2.7) Linux finds a misordered XSAVE layout and
    # switches AVX-512 off.
    apt_private trixie deb-src apt-get source -qq --download-only --tar-only bochs
    mkdir src obj root
    tar -C src --strip-components=1 -xf bochs_*.orig.tar.xz
    (cd obj
     ../src/configure --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex \
         --enable-all-optimizations --disable-plugins --disable-docbook --with-nogui \
         --disable-voodoo --disable-usb --disable-sb16 --disable-es1370 --disable-ne2000 \
         CFLAGS=-O2 CXXFLAGS=-O2
     nice make) > build.log 2>&1 || { tail -n 20 build.log >&2; die "Bochs did not build"; }
    strip -o bochs obj/bochs

    kernel=$(apt_private bookworm deb apt-cache depends linux-image-cloud-amd64 |
             awk '$1 == "Depends:" { print $2; exit }')
    apt_private bookworm deb apt-get download -qq "$kernel" \
        bochsbios vgabios isolinux syslinux-common genisoimage libmagic1 cpio
    for deb in *.deb; do dpkg -x "$deb" root; done
    cp root/boot/vmlinuz-* vmlinuz
    cp root/usr/share/bochs/BIOS-bochs-latest root/usr/share/vgabios/vgabios.bin \
       root/usr/lib/ISOLINUX/isolinux.bin root/usr/lib/syslinux/modules/bios/ldlinux.c32 \
       root/usr/bin/genisoimage root/usr/lib/*/libmagic.so.1 root/bin/cpio .
    write_init > init.c
    gcc -O2 -static -s -Wall -o init init.c
    rm -rf src obj root apt-* ./*.deb ./*.tar.xz
}

write_init() { cat <<'C'
/* The guest's init: run one program, pass its output and exit status to the host
   through port 0xe9, which Bochs copies to its stdout (far quicker than an
   emulated serial line), and end the emulation through port 0x8900. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The NUL-terminated strings in a file, as a NULL-terminated list. */
static char **read_list(const char *path) {
    struct stat st;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st)) return calloc(1, sizeof(char *));
    char *text = calloc(1, st.st_size + 1);
    char **list = calloc(st.st_size + 1, sizeof(char *));
    st.st_size = read(fd, text, st.st_size);
    for (int i = 0, at = 0; at < st.st_size; at += strlen(text + at) + 1) list[i++] = text + at;
    close(fd);
    return list;
}

int main(void) {
    static char buffer[4096];
    int out[2], status = 0;
    ssize_t n;
    char last = '\n';
    mkdir("/proc", 0755), mkdir("/sys", 0755), mkdir("/dev", 0755), mkdir("/tmp", 01777);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    pipe(out);
    pid_t child = fork();
    if (child == 0) {
        char **argv = read_list("/.whit/argv");
        dup2(open("/dev/null", O_RDONLY), 0), dup2(out[1], 1), dup2(out[1], 2);
        close(out[0]), close(out[1]);
        if (chdir(read_list("/.whit/cwd")[0])) perror("whit-emu: chdir");
        execve(argv[0], argv, read_list("/.whit/envp"));
        perror("whit-emu: execve");
        _exit(127);
    }
    close(out[1]);
    iopl(3);
    outsb(0xe9, "\n@@whit-begin@@\n", 16);
    while ((n = read(out[0], buffer, sizeof buffer)) > 0) {
        outsb(0xe9, buffer, n);
        last = buffer[n - 1];
    }
    waitpid(child, &status, 0);
    status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    n = sprintf(buffer, "\n@@whit-exit@@ %d\n", status);
    outsb(0xe9, buffer + (last == '\n'), n - (last == '\n'));
    outsb(0x8900, "Shutdown", 8);
    for (;;) pause();
}
C
}

mkdir -p "$cache"
(   # one at a time; the kit appears whole or not at all
    flock 9
    [[ ! -d $kit ]] || exit 0
    say "filling $kit (once, some minutes)"
    rm -rf "$kit.part" && mkdir "$kit.part" && cd "$kit.part"
    set_up
    mv "$kit.part" "$kit"
) 9> "$cache/lock"

# ---- each run: an initramfs and an ISO around the program ----------------------

work=$(mktemp -d "${TMPDIR:-/tmp}/whit-emu.XXXXXX")
# shellcheck disable=SC2317  # called by the trap
clean_up() {
    [[ -z ${emulator:-} ]] || kill "$emulator" 2> /dev/null || true
    if [[ ${WHIT_EMU_KEEP:-0} = 1 ]]; then say "work folder: $work"; else rm -rf "$work"; fi
}
trap clean_up EXIT
root=$work/root
mkdir -p "$root/.whit" "$root/dev" "$root$PWD" "$work/iso"

put() { mkdir -p "$root$(dirname "$1")" && cp -rL "$1" "$root$1"; }
cp "$kit/init" "$root/init"
put "$binary"
strip --strip-debug "$root$binary" 2> /dev/null || true    # debug info only costs loading time
if readelf -lW "$binary" | grep -q INTERP; then
    for file in $(ldd "$binary" | grep -o '/[^ ]*'); do put "$file"; done
fi
for file in ${EXTRA_FILES:-}; do put "$file"; done
printf '%s\0' "$binary" "$@" > "$root/.whit/argv"
printf '%s\0' "$PWD" > "$root/.whit/cwd"
env -0 | grep -zE '^(RUST|WHIT)_' | grep -zv '^WHIT_EMU_' > "$root/.whit/envp" || true

(cd "$root" && find . | "$kit/cpio" -o -H newc -R 0:0 --quiet) > "$work/iso/initrd"
rm -rf "$root"
ln "$kit/vmlinuz" "$work/iso/" 2> /dev/null || cp "$kit/vmlinuz" "$work/iso/"
cp "$kit/isolinux.bin" "$kit/ldlinux.c32" "$work/iso/"
# Without clearcpuid=fsrm Linux patches memmove for a feature that Bochs offers only
# by half (FSRM, but not the fast-string bit in MISC_ENABLE), and crashes.
cat > "$work/iso/isolinux.cfg" <<'END'
default whit
label whit
  kernel /vmlinuz
  append initrd=/initrd console=ttyS0 quiet panic=-1 reboot=t nokaslr mitigations=off nosmp tsc=reliable audit=0 random.trust_cpu=on clearcpuid=fsrm
END
LD_LIBRARY_PATH=$kit "$kit/genisoimage" -quiet -o "$work/boot.iso" -b isolinux.bin -c boot.cat \
    -no-emul-boot -boot-load-size 4 -boot-info-table "$work/iso"
# ips: how many instructions the guest's timers take for a second; not a limit.
cat > "$work/bochsrc" <<END
display_library: nogui
romimage: file=$kit/BIOS-bochs-latest
vgaromimage: file=$kit/vgabios.bin
cpu: model=corei7_icelake_u, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=${WHIT_EMU_MEM:-1024}, host=${WHIT_EMU_MEM:-1024}
ata0-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/console
port_e9_hack: enabled=1
clock: sync=none
log: $work/bochs.log
speaker: enabled=0
panic: action=fatal
error: action=ignore
info: action=ignore
END

# ---- boot, and pass on what comes between the two markers ----------------------

exec 3< <(exec timeout --foreground --kill-after=5 "$limit" "$kit/bochs" -q \
               -f "$work/bochsrc" < /dev/null 2> "$work/stderr")
emulator=$!
while IFS= read -r line || [[ -n $line ]]; do
    case $line in
        @@whit-begin@@) begun=1 ;;
        '@@whit-exit@@ '*) result=${line#* } ;;
        *) [[ -z ${begun:-} ]] || printf '%s\n' "$line" ;;
    esac
done <&3
status=0
wait "$emulator" || status=$?
[[ -z ${result:-} ]] || exit "$result"
(( status != 124 && status != 137 )) || { say "TIMEOUT: no result within $limit s"; exit 99; }
tail -n 20 "$work/console" "$work/stderr" "$work/bochs.log" >&2 || true
die "the emulator ended ($status) without a result"
