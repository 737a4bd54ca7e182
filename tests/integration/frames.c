/* Raw Ethernet frames in a guest that has no Python.
 *
 *   frames send IFACE HEX...                 sends each frame once
 *   frames hear IFACE SECONDS FILE HEX...    returns once it listens; FILE appears when a frame came
 *                                            that has the last HEX in it, or the time is over, and has
 *                                            a line for each HEX that was in one of the frames
 */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int decode(const char *hex, unsigned char *out, int room) {
    int length = 0;
    for (unsigned byte; length < room && sscanf(hex, "%2x", &byte) == 1; hex += 2)
        out[length++] = byte;
    return length;
}

static int hear(int fd, int seconds, const char *file, int count, char **hex) {
    unsigned char frame[2048], word[64];
    char part[4096];
    int seen[64] = {0};
    struct timeval patience = {1, 0};
    time_t end = time(NULL) + seconds;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (fork())
        return 0;
    setsid();
    for (int i = 0; i < 3; i++)
        close(i);
    while (time(NULL) < end && !seen[count - 1]) {
        int got = recv(fd, frame, sizeof frame, 0);
        for (int i = 0; got > 0 && i < count; i++) {
            int length = decode(hex[i], word, sizeof word);
            if (memmem(frame, got, word, length))
                seen[i] = 1;
        }
    }
    snprintf(part, sizeof part, "%s.part", file);
    FILE *out = fopen(part, "w");
    for (int i = 0; out && i < count; i++)
        if (seen[i])
            fprintf(out, "%s\n", hex[i]);
    return out && !fclose(out) && !rename(part, file) ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    where.sll_ifindex = if_nametoindex(argv[2]);
    int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    if (fd < 0 || !where.sll_ifindex || bind(fd, (void *)&where, sizeof where)) {
        perror(argv[2]);
        return 1;
    }
    if (!strcmp(argv[1], "hear") && argc > 5 && argc < 5 + 64)
        return hear(fd, atoi(argv[3]), argv[4], argc - 5, argv + 5);
    /* Past the queue, which would send one flow before the other. */
    int past = 1;
    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &past, sizeof past);
    for (int i = 3; i < argc; i++) {
        unsigned char frame[2048];
        int length = decode(argv[i], frame, sizeof frame);
        if (send(fd, frame, length, 0) != length) {
            perror("send");
            return 1;
        }
    }
    return 0;
}
