#!/bin/sh
# Becomes a systemd of its own: boot.sh DIRECTORY CHECKOUT VENV PYTHON LOWER, as root, in namespaces that `unshare` made.
# The new root is LOWER, the machine's own as a rule, with a writable layer of memory on top, so that nothing of the machine is touched.
set -e
base=$1 checkout=$2 venv=$3 python=$4 lower=$5
root=$base/root

mount --make-rprivate /
mount -t tmpfs tmpfs "$base"
mkdir "$base/upper" "$base/work" "$root"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$base/upper,workdir=$base/work" "$root"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
umount -l "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mkdir "$root/run/lock"

# clusterd where a sandbox can see it, wherever the checkout and its Python are.
mkdir -p "$root/opt/clusterd/src" "$root/opt/clusterd/python" "$root/opt/clusterd/venv/bin"
mount --bind "$checkout" "$root/opt/clusterd/src"
mount --bind "$python" "$root/opt/clusterd/python"
name=$(basename "$(readlink -f "$venv/bin/python")")
ln -s "/opt/clusterd/python/bin/$name" "$root/opt/clusterd/venv/bin/python"
mkdir "$root/opt/clusterd/venv/lib"
mount --bind "$venv/lib" "$root/opt/clusterd/venv/lib" 2>/dev/null || cp -r "$venv/lib" "$root/opt/clusterd/venv/"
printf 'home = /opt/clusterd/python/bin\ninclude-system-site-packages = false\n' >"$root/opt/clusterd/venv/pyvenv.cfg"
printf '#!/opt/clusterd/venv/bin/python\nfrom clusterd.cli import main\nmain()\n' >"$root/opt/clusterd/venv/bin/clusterd"
chmod +x "$root/opt/clusterd/venv/bin/clusterd"

# Quick and quiet: nothing of the machine's own that takes time, no login, no time synchronization.
etc=$root/etc/systemd
rm -rf "$root"/etc/systemd/system/*.wants "$root/var/log/journal"
mkdir -p "$etc/system.conf.d" "$etc/journald.conf.d"
printf '[Manager]\nDefaultEnvironment=%s\n' \
  "PYTHONPATH=/opt/clusterd/src LD_LIBRARY_PATH=/opt/clusterd/python/lib PYTHONDONTWRITEBYTECODE=1" \
  >"$etc/system.conf.d/test.conf"
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n' >"$etc/journald.conf.d/test.conf"
for unit in systemd-sysctl.service systemd-modules-load.service systemd-binfmt.service systemd-remount-fs.service \
  modprobe@.service systemd-udevd.service systemd-udev-trigger.service systemd-timesyncd.service systemd-resolved.service \
  systemd-networkd.service systemd-hwdb-update.service systemd-firstboot.service systemd-random-seed.service \
  systemd-udevd-kernel.socket systemd-udevd-control.socket dev-hugepages.mount dev-mqueue.mount \
  sys-kernel-debug.mount sys-kernel-tracing.mount apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
  e2scrub_all.timer fstrim.timer man-db.timer logrotate.timer; do
  ln -sf /dev/null "$etc/system/$unit"
done
: >"$root/etc/fstab"

# Not a chroot: in one, nobody may make user namespaces (user_namespaces(7)), and PrivateUsers= does.
cd "$root"
pivot_root . mnt
umount -l /mnt
# As on a machine (in a container systemd leaves it): the mounts of credentials have to reach the services.
mount --make-rshared /
exec env -i container=docker PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=basic.target --log-target=journal-or-kmsg
