/* An engine's HTTP front without the engine: one thread, epoll, raw sockets.
 *
 *   upstream --port 0 --unix PATH        prints {"port": N} once it listens on both
 *
 * A request's body says what it gets: "stream":true makes a stream of "max_tokens" chunks, "seed"
 * chunks per second (0: as fast as they are taken; -K: one in K seconds), else one answer. Streams
 * of one rate go in groups of 64 that get their chunks in one step, as an engine's batch does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "wire.h"

#define GROUP 64            /* streams that get their chunks in one step */
#define FLOOD_EVENTS 16     /* unpaced: events per write, so that this side is never the slower */
#define MAX_REQUEST 262144  /* larger requests are not ours */
#define MAX_LAG_NS 200000000u
#define FRAME_HEAD (EVENT_LENGTH < 256 ? 4 : 5)  /* "102\r\n" */
#define FRAME_MAX 320

struct group;

struct conn {
    int fd;
    char *in; size_t in_len, in_cap;     /* a request that is not complete yet */
    char *out; size_t out_len, out_cap;  /* what the socket did not take yet */
    int streaming, usage, flood, watching;
    uint32_t seq, chunks, owed;
    struct group *group; int slot;
    char id[ID_DIGITS + 1];
    char frame[FRAME_MAX]; size_t frame_len;
};

struct group {
    uint64_t interval, start, step, due;
    int count;
    struct conn *members[GROUP];
};

static int poller, timer, tcp_listener, unix_listener;
static struct conn **conns; static size_t conns_cap;
static struct group **groups; static size_t groups_len;
static char stream_head[512], date_text[64];
static uint64_t random_state = 88172645463325252u;

static void die(const char *what) { perror(what); exit(1); }

static void *grown(void *block, size_t *cap, size_t want, size_t unit) {
    if (want <= *cap) return block;
    size_t to = *cap ? *cap : 256;
    while (to < want) to *= 2;
    block = realloc(block, to * unit);
    if (!block) die("realloc");
    *cap = to;
    return block;
}

static uint64_t random_below(uint64_t bound) {
    random_state ^= random_state << 13; random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % bound;
}

/* Steps are jittered by up to a fifth of their interval: an exact beat could march in step with the
 * kernel's own tick, by which it divides CPU time into user and system. */
static void set_due(struct group *g) {
    uint64_t jitter = g->interval < 100000000u ? random_below(g->interval / 5 + 1) : 0;
    g->due = g->start + g->step * g->interval + jitter;
}

static void arm_timer(void) {
    static uint64_t armed;
    uint64_t first = 0;
    for (size_t i = 0; i < groups_len; i++)
        if (groups[i]->count && (!first || groups[i]->due < first)) first = groups[i]->due;
    if (first == armed) return;
    armed = first;
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(first / 1000000000u),
                                         .tv_nsec = (long)(first % 1000000000u)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL)) die("timerfd_settime");
}

static void join_group(struct conn *c, uint64_t interval) {
    struct group *g = NULL;
    for (size_t i = 0; i < groups_len && !g; i++)
        if (groups[i]->interval == interval && groups[i]->count < GROUP) g = groups[i];
    if (!g) {
        static size_t cap;
        groups = grown(groups, &cap, groups_len + 1, sizeof *groups);
        g = groups[groups_len++] = calloc(1, sizeof *g);
        if (!g) die("calloc");
        g->interval = interval;
    }
    if (!g->count) {  /* groups of one rate do not step together: engines do not either */
        g->start = now_ns() - (interval < 1000000000u ? random_below(interval) : 0);
        g->step = 1;
        set_due(g);
    }
    c->group = g;
    c->slot = g->count;
    g->members[g->count++] = c;
}

static void leave_group(struct conn *c) {
    struct group *g = c->group;
    if (!g) return;
    struct conn *last = g->members[--g->count];
    g->members[c->slot] = last;
    last->slot = c->slot;
    c->group = NULL;
}

static void watch(struct conn *c) {
    int writing = c->out_len || c->flood;
    if (writing == c->watching) return;
    c->watching = writing;
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0u), .data.fd = c->fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void drop(struct conn *c) {
    leave_group(c);
    conns[c->fd] = NULL;
    close(c->fd);
    free(c->in); free(c->out); free(c);
}

/* Send, and keep what is not taken; -1 once the connection is gone. */
static int put(struct conn *c, const char *data, size_t n) {
    if (!c->out_len) {
        ssize_t sent = send(c->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno != EAGAIN) return -1;
            sent = 0;
        }
        data += sent; n -= (size_t)sent;
    }
    if (n) {
        c->out = grown(c->out, &c->out_cap, c->out_len + n, 1);
        memcpy(c->out + c->out_len, data, n);
        c->out_len += n;
    }
    watch(c);
    return 0;
}

static size_t framed(char *to, const char *event, size_t n) {
    size_t head = (size_t)sprintf(to, "%zx\r\n", n);
    memcpy(to + head, event, n);
    memcpy(to + head + n, "\r\n", 2);
    return head + n + 2;
}

static void stamp(char *event, uint32_t seq) {
    put_digits(event + SEQ_AT, SEQ_DIGITS, seq);
    put_digits(event + NS_AT, NS_DIGITS, now_ns());
}

/* The stream's last event and all that follows it. */
static size_t make_end(struct conn *c, char *to) {
    char event[512];
    size_t n = make_event(event, c->id, 1);
    stamp(event, c->seq);
    size_t at = framed(to, event, n);
    if (c->usage) {
        n = (size_t)sprintf(event, EVENT_START "%s-0\",\"object\":\"text_completion\","
            "\"created\":1767225600,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":24,"
            "\"total_tokens\":%u,\"completion_tokens\":%u}}\n\n", c->id, c->chunks + 24, c->chunks);
        at += framed(to + at, event, n);
    }
    at += framed(to + at, DONE, sizeof(DONE) - 1);
    memcpy(to + at, "0\r\n\r\n", 5);
    return at + 5;
}

static int serve_input(struct conn *c);

/* Send up to `count` events in one write; -1 once the connection is gone. */
static int emit(struct conn *c, uint32_t count, const char *head) {
    char data[FLOOD_EVENTS * FRAME_MAX + 2048];
    size_t n = 0;
    if (head) { n = strlen(head); memcpy(data, head, n); }
    while (count-- && c->seq + 1 < c->chunks) {
        stamp(c->frame + FRAME_HEAD, c->seq);
        memcpy(data + n, c->frame, c->frame_len);
        n += c->frame_len;
        c->seq++;
    }
    int over = c->seq + 1 >= c->chunks && (int32_t)count >= 0;
    if (over) {
        n += make_end(c, data + n);
        c->streaming = c->flood = 0;
        leave_group(c);
    }
    if (put(c, data, n)) return -1;
    return over ? serve_input(c) : 0;
}

static void step_groups(void) {
    uint64_t now = now_ns();
    for (size_t i = 0; i < groups_len; i++) {
        struct group *g = groups[i];
        while (g->count && g->due <= now) {
            for (int k = g->count - 1; k >= 0; k--) {  /* backwards: members leave as they end */
                struct conn *c = g->members[k];
                if (c->out_len) c->owed++;
                else if (emit(c, 1, NULL)) drop(c);
            }
            g->step++;
            set_due(g);
            if (now > MAX_LAG_NS && g->due < now - MAX_LAG_NS) {  /* too slow: do not run after it */
                g->start = now; g->step = 1;
                set_due(g);
            }
        }
    }
}

static const char *value_of(const char *body, size_t n, const char *key) {
    const char *at = memmem(body, n, key, strlen(key));
    if (!at) return NULL;
    const char *end = body + n;
    at += strlen(key);
    while (at < end && (*at == ' ' || *at == ':')) at++;
    return at < end ? at : NULL;
}

static long number_of(const char *body, size_t n, const char *key, long otherwise) {
    const char *at = value_of(body, n, key);
    return at ? strtol(at, NULL, 10) : otherwise;  /* a body ends with a brace, so this ends */
}

static int is_true(const char *body, size_t n, const char *key) {
    const char *at = value_of(body, n, key);
    return at && *at == 't';
}

static int start_stream(struct conn *c, const char *body, size_t n) {
    long chunks = number_of(body, n, "\"max_tokens\"", 16);
    long rate = number_of(body, n, "\"seed\"", 0);
    c->streaming = 1;
    c->usage = is_true(body, n, "\"include_usage\"");
    c->seq = c->owed = 0;
    c->chunks = chunks < 1 ? 1 : (uint32_t)chunks;
    char event[512];
    size_t length = make_event(event, c->id, 0);
    c->frame_len = framed(c->frame, event, length);
    if (rate) join_group(c, rate > 0 ? 1000000000u / (uint64_t)rate
                                     : (uint64_t)-rate * 1000000000u);
    else c->flood = 1;
    return emit(c, 1, stream_head);
}

static int answer(struct conn *c, const char *type, const char *body, size_t n) {
    char data[2048];
    int head = sprintf(data, "HTTP/1.1 200 OK\r\ndate: %s\r\nserver: uvicorn\r\n"
                       "content-length: %zu\r\ncontent-type: %s\r\n\r\n", date_text, n, type);
    memcpy(data + head, body, n);
    return put(c, data, (size_t)head + n);
}

static int serve(struct conn *c, const char *head, const char *body, size_t n) {
    if (!strncmp(head, "GET ", 4)) {
        static const char models[] = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":"
            "\"model\",\"created\":1767225600,\"owned_by\":\"vllm\",\"root\":\"m\"}]}";
        if (!strncmp(head + 4, "/health", 7)) return answer(c, "text/plain", "", 0);
        return answer(c, "application/json", models, sizeof(models) - 1);
    }
    const char *mark = memchr(body, '#', n);
    if (mark && mark + 1 + ID_DIGITS < body + n) memcpy(c->id, mark + 1, ID_DIGITS);
    else memset(c->id, '0', ID_DIGITS);
    if (is_true(body, n, "\"stream\"")) return start_stream(c, body, n);
    char text[1024];
    size_t length = (size_t)sprintf(text, ANSWER_START "%s" ANSWER_END, c->id);
    return answer(c, "application/json", text, length);
}

/* Length of the request's head and body, 0 while it is incomplete, -1 when it is none of ours. */
static long request_length(const char *data, size_t n, const char **body, size_t *body_len) {
    const char *end = memmem(data, n, "\r\n\r\n", 4);
    if (!end) return n > MAX_REQUEST ? -1 : 0;
    *body_len = 0;
    for (const char *line = data; line < end;) {
        if (!strncasecmp(line, "content-length:", 15)) *body_len = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) return -1;
        line = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        line += 2;
    }
    *body = end + 4;
    size_t total = (size_t)(*body - data) + *body_len;
    if (total > MAX_REQUEST) return -1;
    return total <= n ? (long)total : 0;
}

/* Serve what is complete in the connection's own buffer. */
static int serve_input(struct conn *c) {
    while (c->in_len && !c->streaming) {
        const char *body; size_t n;
        long length = request_length(c->in, c->in_len, &body, &n);
        if (length <= 0) return (int)length;
        /* Out of the buffer first: the answer may come back here for the next request. */
        char *mine = malloc((size_t)length + 1);
        if (!mine) die("malloc");
        memcpy(mine, c->in, (size_t)length);
        mine[length] = 0;
        c->in_len -= (size_t)length;
        memmove(c->in, c->in + length, c->in_len);
        int gone = serve(c, mine, mine + (body - c->in), n);
        free(mine);
        if (gone) return -1;
    }
    return 0;
}

static int on_readable(struct conn *c) {
    static char data[MAX_REQUEST + 1];
    ssize_t got = recv(c->fd, data, MAX_REQUEST, MSG_DONTWAIT);
    if (got == 0) return -1;
    if (got < 0) return errno == EAGAIN ? 0 : -1;
    data[got] = 0;
    const char *body; size_t n;
    if (!c->in_len && !c->streaming && request_length(data, (size_t)got, &body, &n) == got)
        return serve(c, data, body, n);  /* the usual case: one whole request */
    if (c->in_len + (size_t)got > MAX_REQUEST) return -1;
    c->in = grown(c->in, &c->in_cap, c->in_len + (size_t)got, 1);
    memcpy(c->in + c->in_len, data, (size_t)got);
    c->in_len += (size_t)got;
    return serve_input(c);
}

static int on_writable(struct conn *c) {
    if (c->out_len) {
        ssize_t sent = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) return errno == EAGAIN ? 0 : -1;
        c->out_len -= (size_t)sent;
        memmove(c->out, c->out + sent, c->out_len);
    }
    while (!c->out_len && c->streaming && c->owed) {
        c->owed--;
        if (emit(c, 1, NULL)) return -1;
    }
    if (!c->out_len && c->flood && emit(c, FLOOD_EVENTS, NULL)) return -1;
    watch(c);
    return 0;
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        int one = 1;
        if (listener == tcp_listener) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        size_t before = conns_cap;
        conns = grown(conns, &conns_cap, (size_t)fd + 1, sizeof *conns);
        memset(conns + before, 0, (conns_cap - before) * sizeof *conns);
        struct conn *c = conns[fd] = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e)) die("epoll_ctl");
    }
}

static void listen_on(int fd, const struct sockaddr *address, socklen_t n) {
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, address, n) || listen(fd, 4096)) die("listen");
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
}

static void start_listening(int port, const char *path) {
    struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    strncpy(un.sun_path, path, sizeof(un.sun_path) - 1);
    unlink(path);
    tcp_listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    unix_listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    listen_on(tcp_listener, (struct sockaddr *)&tcp, sizeof tcp);
    listen_on(unix_listener, (struct sockaddr *)&un, sizeof un);
    socklen_t n = sizeof tcp;
    getsockname(tcp_listener, (struct sockaddr *)&tcp, &n);
    printf("{\"port\": %d}\n", ntohs(tcp.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv) {
    int port = 0;
    const char *path = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        if (!strcmp(argv[i], "--unix")) path = argv[i + 1];
    }
    if (!path) { fprintf(stderr, "usage: upstream --unix PATH [--port N]\n"); return 2; }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    time_t t = time(NULL);
    strftime(date_text, sizeof date_text, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&t));
    sprintf(stream_head, "HTTP/1.1 200 OK\r\ndate: %s\r\nserver: uvicorn\r\ncontent-type: "
            "text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n", date_text);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = timer};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e);
    start_listening(port, path);
    for (;;) {
        static struct epoll_event ready[512];
        int n = epoll_wait(poller, ready, 512, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == timer) {
                uint64_t count;
                if (read(timer, &count, sizeof count) > 0) step_groups();
            } else if (fd == tcp_listener || fd == unix_listener) {
                accept_all(fd);
            } else if (conns[fd]) {
                struct conn *c = conns[fd];
                int gone = 0;
                if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) gone = on_readable(c);
                if (!gone && ready[i].events & EPOLLOUT) gone = on_writable(c);
                if (gone) drop(c);
            }
        }
        arm_timer();
    }
}
