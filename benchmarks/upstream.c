/* The upstream of the benchmark: one thread, epoll, answers that were written before the first
 * request. It parses no JSON: a body that holds "stream":true gets a paced stream of server-sent
 * events, any other POST a chat completion. Compiled at run time by benchmarks/upstream_process.py;
 * benchmarks/upstream.py is the same server for machines without a C compiler.
 *
 *   upstream PORT CHUNKS CHUNK_MS
 *
 *   GET /__count    how many POSTs were answered or begun
 *   GET anything    a list of one model
 *   POST anything   a chat completion, whole or streamed
 *
 * Not known here: keys, paths, other methods, slow readers (a full socket buffer ends the stream).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 16384, /* descriptors; far above the 512 streams of a run */
    REQUEST_BYTES_MAX = 4 << 20,
    READ_BYTES = 64 << 10,
    EVENTS_MAX = 512,
};

static const char CHOICE[] =
    "The harbour master keeps two books: one for the ships that came in, and one for the weather "
    "that brought them. When the wind turns north the second book is the thicker one. Pilots read "
    "it before they read the charts, because a chart says where the rocks are, and the book says "
    "how often somebody found them. A gateway is kept in the same way: each call is written down "
    "with what it cost, how long it took, and which way it went, so that the next one can be sent "
    "with better knowledge than the last. Nothing in the books is rounded, and nothing is left out "
    "because it was small.";

static char completion[4096], models[4096], stream_head[256];
static int completion_bytes, models_bytes, stream_head_bytes;
static char content_chunk[2048], last_chunk[2048];
static int content_chunk_bytes, last_chunk_bytes;

typedef struct {
    char *buffer;
    int used, capacity;
    int chunks_left; /* 0: no stream is running */
    uint32_t generation;
    char is_open;
} connection;

/* Streams wait in one queue. All have the same interval and a late one is never set back further
 * than one interval, so due times are appended in order and no heap is needed. */
typedef struct {
    uint64_t due_ns;
    int fd;
    uint32_t generation;
} wait;

static connection connections[CONNECTIONS_MAX];
static wait queue[CONNECTIONS_MAX * 4];
static uint32_t queue_head, queue_tail;
static uint64_t posts, interval_ns;
static int chunks_per_stream, epoll;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void close_connection(int fd) {
    connection *c = &connections[fd];
    c->is_open = 0;
    c->used = 0;
    c->chunks_left = 0;
    c->generation++; /* what still waits in the queue belongs to nobody */
    close(fd);
}

static int send_all(int fd, const char *bytes, int count) {
    if (send(fd, bytes, (size_t)count, MSG_NOSIGNAL) == count) return 1;
    close_connection(fd);
    return 0;
}

static void enqueue(int fd, uint64_t due_ns) {
    wait *w = &queue[queue_tail++ % (CONNECTIONS_MAX * 4)];
    w->due_ns = due_ns;
    w->fd = fd;
    w->generation = connections[fd].generation;
}

static void answer_count(int fd) {
    char body[64], answer[256];
    int body_bytes = sprintf(body, "{\"posts\":%llu}", (unsigned long long)posts);
    int bytes = sprintf(answer,
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                        "content-length: %d\r\n\r\n%s", body_bytes, body);
    send_all(fd, answer, bytes);
}

static void begin_stream(int fd, uint64_t now) {
    char first[2048];
    memcpy(first, stream_head, (size_t)stream_head_bytes);
    memcpy(first + stream_head_bytes, content_chunk, (size_t)content_chunk_bytes);
    connections[fd].chunks_left = chunks_per_stream; /* the rest of the content, and the end */
    if (send_all(fd, first, stream_head_bytes + content_chunk_bytes))
        enqueue(fd, now + interval_ns);
}

static void answer(int fd, const char *head, const char *body, int body_bytes, uint64_t now) {
    if (!strncmp(head, "GET /__count", 12)) {
        answer_count(fd);
    } else if (!strncmp(head, "GET ", 4)) {
        send_all(fd, models, models_bytes);
    } else if (posts++, memmem(body, (size_t)body_bytes, "\"stream\":true", 13) ||
                            memmem(body, (size_t)body_bytes, "\"stream\": true", 14)) {
        begin_stream(fd, now);
    } else {
        send_all(fd, completion, completion_bytes);
    }
}

/* Length of the body that starts at `body`, or -1 while it is not all there. */
static int body_length(const char *head, const char *body, int available) {
    const char *line = head;
    while (line < body - 2) {
        if (!strncasecmp(line, "content-length:", 15)) {
            int length = atoi(line + 15);
            return length <= available ? length : -1;
        }
        if (!strncasecmp(line, "transfer-encoding:", 18)) {
            int is_whole = available >= 5 && !memcmp(body + available - 5, "0\r\n\r\n", 5);
            return is_whole ? available : -1;
        }
        line = (const char *)memmem(line, (size_t)(body - line), "\r\n", 2) + 2;
    }
    return 0;
}

static void serve_buffered(int fd, uint64_t now) {
    connection *c = &connections[fd];
    while (c->is_open && c->used && !c->chunks_left) {
        c->buffer[c->used] = 0;
        char *end = memmem(c->buffer, (size_t)c->used, "\r\n\r\n", 4);
        if (!end) return;
        char *body = end + 4;
        int length = body_length(c->buffer, body, (int)(c->buffer + c->used - body));
        if (length < 0) return;
        int taken = (int)(body - c->buffer) + length;
        answer(fd, c->buffer, body, length, now);
        if (!c->is_open) return;
        memmove(c->buffer, c->buffer + taken, (size_t)(c->used - taken));
        c->used -= taken;
    }
}

static void read_request(int fd, uint64_t now) {
    connection *c = &connections[fd];
    if (c->capacity - c->used < READ_BYTES) {
        c->capacity = c->used + READ_BYTES * 2;
        c->buffer = realloc(c->buffer, (size_t)c->capacity + 1);
    }
    ssize_t count = recv(fd, c->buffer + c->used, (size_t)(c->capacity - c->used), 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0 || c->used > REQUEST_BYTES_MAX) {
        close_connection(fd);
        return;
    }
    c->used += (int)count;
    serve_buffered(fd, now);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        if (fd >= CONNECTIONS_MAX) {
            close(fd);
            continue;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connections[fd].is_open = 1;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static void send_due(uint64_t now) {
    while (queue_head != queue_tail) {
        wait *w = &queue[queue_head % (CONNECTIONS_MAX * 4)];
        if (w->due_ns > now) return;
        queue_head++;
        connection *c = &connections[w->fd];
        if (c->generation != w->generation || !c->is_open) continue;
        int is_last = --c->chunks_left == 0;
        uint64_t due = w->due_ns > now - interval_ns ? w->due_ns : now - interval_ns;
        if (is_last) {
            if (send_all(w->fd, last_chunk, last_chunk_bytes)) serve_buffered(w->fd, now);
        } else if (send_all(w->fd, content_chunk, content_chunk_bytes)) {
            enqueue(w->fd, due + interval_ns);
        }
    }
}

static int wait_ms(void) {
    if (queue_head == queue_tail) return 1000;
    uint64_t due = queue[queue_head % (CONNECTIONS_MAX * 4)].due_ns, now = now_ns();
    return due <= now ? 0 : (int)((due - now + 999999) / 1000000);
}

static int framed(char *into, const char *event) {
    return sprintf(into, "%zx\r\n%s\r\n", strlen(event), event);
}

static void write_answers(void) {
    char body[3072], event[1024];
    sprintf(body,
            "{\"id\":\"cmpl-5f0d2c7e9b1a4c6d8e3f\",\"object\":\"chat.completion\","
            "\"created\":1760000000,\"model\":\"mistral-small-latest\",\"choices\":[{\"index\":0,"
            "\"message\":{\"role\":\"assistant\",\"tool_calls\":null,\"content\":\"%s\"},"
            "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":187,\"total_tokens\":299,"
            "\"completion_tokens\":112}}", CHOICE);
    completion_bytes = sprintf(completion,
                               "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                               "content-length: %zu\r\n\r\n%s", strlen(body), body);
    sprintf(body, "{\"object\":\"list\",\"data\":[{\"id\":\"mistral-small-latest\","
                  "\"object\":\"model\",\"created\":1760000000,\"owned_by\":\"mistralai\"}]}");
    models_bytes = sprintf(models,
                           "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                           "content-length: %zu\r\n\r\n%s", strlen(body), body);
    stream_head_bytes = sprintf(stream_head,
                                "HTTP/1.1 200 OK\r\n"
                                "content-type: text/event-stream; charset=utf-8\r\n"
                                "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n");
    sprintf(event,
            "data: {\"id\":\"cmpl-5f0d2c7e9b1a4c6d8e3f\",\"object\":\"chat.completion.chunk\","
            "\"created\":1760000000,\"model\":\"mistral-small-latest\",\"choices\":[{\"index\":0,"
            "\"delta\":{\"role\":\"assistant\",\"content\":\" harbour\"},"
            "\"finish_reason\":null}]}\n\n");
    content_chunk_bytes = framed(content_chunk, event);
    sprintf(event,
            "data: {\"id\":\"cmpl-5f0d2c7e9b1a4c6d8e3f\",\"object\":\"chat.completion.chunk\","
            "\"created\":1760000000,\"model\":\"mistral-small-latest\",\"choices\":[{\"index\":0,"
            "\"delta\":{\"content\":\"\"},\"finish_reason\":\"stop\"}],\"usage\":{"
            "\"prompt_tokens\":187,\"total_tokens\":207,\"completion_tokens\":20}}\n\n");
    last_chunk_bytes = framed(last_chunk, event);
    last_chunk_bytes += sprintf(last_chunk + last_chunk_bytes,
                                "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("upstream: cannot listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: upstream PORT CHUNKS CHUNK_MS\n");
        return 2;
    }
    chunks_per_stream = atoi(argv[2]);
    interval_ns = (uint64_t)atoi(argv[3]) * 1000000u;
    write_answers();
    int listener = listen_on(atoi(argv[1]));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS_MAX];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS_MAX, wait_ms());
        uint64_t now = now_ns();
        send_due(now);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) accept_all(listener);
            else if (connections[fd].is_open) read_request(fd, now);
        }
    }
}
