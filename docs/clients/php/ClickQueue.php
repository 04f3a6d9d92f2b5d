<?php
// Report clicks to Clickledger from a PHP backend: an offline queue in SQLite. Shown, not run. Needs pdo_sqlite and curl.
// A click is on disk before add() returns and leaves it only after a final answer, which the body alone tells. It is sent
// with the same Idempotency-Key however often, so that it counts once. Run flush() from cron, one process at a time;
// where it does not return null, $lastError says why.
declare(strict_types=1);

/** The key is not valid (any more): the clicks stay in the queue; set $key and flush again. */
final class NotAuthorized extends RuntimeException {}

final class ClickQueue
{
    private const CLICKS_MAX = 10000; // kept while offline; beyond it the first goes, counted in $dropped
    private const BACKOFF_S = [1, 2, 4, 8, 16, 32, 60];
    private const PATH = '/campaignapi/resources/v3/shortlinkclicks';
    private const REFUSED = ['499', '1001', '1002', '1003', '1010']; // codes that are final: this click will never be recorded
    private const NOT_AUTHORIZED = ['430', '498']; // nothing is wrong with the click

    public int $dropped = 0;
    public string $lastError = ''; // why the last try was no success; empty after one that was
    private Closure $onRefused;
    private PDO $db;
    private int $failures = 0;

    /** @param ?Closure(string, string, string): void $onRefused short URL, code, description */
    public function __construct(string $file, private string $base, public string $key, ?Closure $onRefused = null)
    {
        $this->onRefused = $onRefused ?? static function (string $shortUrl, string $code, string $description): void {
            error_log("click on $shortUrl refused: $code $description");
        };
        $this->db = new PDO("sqlite:$file", options: [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
        $this->db->exec('PRAGMA synchronous = FULL');
        $this->db->exec('CREATE TABLE IF NOT EXISTS clicks (n INTEGER PRIMARY KEY, id TEXT NOT NULL, body TEXT NOT NULL)');
    }

    public function add(string $shortUrl, ?string $userAgent = null, ?string $ipAddress = null): void
    {
        $body = array_filter(
            ['short-url' => $shortUrl, 'user-agent' => $userAgent, 'ip-address' => $ipAddress],
            static fn (?string $text): bool => $text !== null,
        );
        $body['clicked-at'] = (int) floor(microtime(true) * 1000); // it may be sent much later
        $this->db->prepare('INSERT INTO clicks (id, body) VALUES (?, ?)')
            ->execute([bin2hex(random_bytes(16)), json_encode($body, JSON_THROW_ON_ERROR)]);
        $surplus = (int) $this->db->query('SELECT count(*) FROM clicks')->fetchColumn() - self::CLICKS_MAX;
        if ($surplus > 0) {
            $this->db->exec("DELETE FROM clicks WHERE n IN (SELECT n FROM clicks ORDER BY n LIMIT $surplus)");
            $this->dropped += $surplus;
        }
    }

    /** Seconds until it is worth trying again; null when nothing waits. */
    public function flush(): ?float
    {
        while ($row = $this->db->query('SELECT n, id, body FROM clicks ORDER BY n LIMIT 1')->fetch(PDO::FETCH_ASSOC)) {
            [$answer, $this->lastError, $retryAfter] = $this->send($row['id'], $row['body']);
            [$code, $description] = [(string) ($answer['code'] ?? ''), (string) ($answer['description'] ?? '')];
            if (in_array($code, self::NOT_AUTHORIZED, true)) {
                throw new NotAuthorized("$code $description");
            }
            $isRefused = in_array($code, self::REFUSED, true);
            if (!isset($answer['transaction-id']) && !$isRefused) {
                // Not now, or no answer of Clickledger's at all: keep the click, behind the others, which may get through.
                $this->db->prepare('UPDATE clicks SET n = (SELECT max(n) + 1 FROM clicks) WHERE n = ?')->execute([$row['n']]);
                $wait = self::BACKOFF_S[min($this->failures++, count(self::BACKOFF_S) - 1)] * random_int(500, 1000) / 1000;
                return max($retryAfter, $wait);
            }
            if ($isRefused) {
                ($this->onRefused)(json_decode($row['body'], true)['short-url'], $code, $description);
            }
            $this->failures = 0;
            $this->lastError = '';
            $this->db->prepare('DELETE FROM clicks WHERE n = ?')->execute([$row['n']]);
        }
        return null;
    }

    /** @return array{array<string, mixed>, string, float} the answer's JSON (else empty), how it reads, Retry-After in s */
    private function send(string $id, string $body): array
    {
        $after = 0.0;
        $curl = curl_init(rtrim($this->base, '/') . self::PATH);
        curl_setopt_array($curl, [
            CURLOPT_POSTFIELDS => $body,
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_TIMEOUT => 10,
            CURLOPT_HTTPHEADER => ["authorization: Bearer $this->key", 'content-type: application/json', "idempotency-key: $id"],
            CURLOPT_HEADERFUNCTION => static function ($_, string $line) use (&$after): int {
                if (preg_match('/^retry-after:\s*(\d+)/i', $line, $found)) {
                    $after = (float) $found[1];
                }
                return strlen($line);
            },
        ]);
        $text = curl_exec($curl);
        if ($text === false) {
            return [[], curl_error($curl), 0.0]; // no connection, a time-out
        }
        $answer = json_decode($text, true); // null: a proxy's page
        $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
        return [is_array($answer) ? $answer : [], "HTTP $status: " . substr($text, 0, 200), $after];
    }
}
