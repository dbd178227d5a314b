/* The least that handing a connection over can cost: accept, sendmsg, close. Usage: floor PORT WORKERS
 *
 * The main process waits, accepts, sends the descriptor to the next worker's box and closes its copy, no more: no
 * bounds, no errors worth a word. The workers answer as hello.py does and close.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static const char ANSWER[] = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\nHello, world!";

union control { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; };

static int carry(int box, int fd, ssize_t (*call)(int, struct msghdr *, int)) {
    char payload[32] = {1};
    union control control;
    struct iovec vector = {payload, sizeof payload};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = CMSG_LEN(sizeof fd)};
    memset(&control, 0, sizeof control);
    control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    if (call(box, &message, MSG_NOSIGNAL) <= 0)
        return -1;
    memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
    return fd;
}

static ssize_t put(int box, struct msghdr *message, int flags) { return sendmsg(box, message, flags); }

static void work(int box) {
    char request[4096];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int fd; (fd = carry(box, -1, recvmsg)) >= 0; close(fd))
        if (read(fd, request, sizeof request) > 0)
            (void)!write(fd, ANSWER, sizeof ANSWER - 1);
    exit(0);
}

int main(int count, char **arguments) {
    int workers = count > 2 ? atoi(arguments[2]) : 4, boxes[64], pair[2], one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 2048))
        return 1;
    for (int i = 0; i < workers; i++) {
        socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
        if (!fork()) {
            close(pair[0]);
            work(pair[1]);
        }
        close(pair[1]);
        boxes[i] = pair[0];
    }
    struct pollfd waiting = {.fd = listener, .events = POLLIN};
    for (int next = 0; poll(&waiting, 1, -1) > 0;)
        for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0; next = (next + 1) % workers) {
            carry(boxes[next], fd, put);
            close(fd);
        }
    return 0;
}
