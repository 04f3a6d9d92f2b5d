<?php
// Report clicks to Clickledger from a PHP backend: an offline queue in SQLite. Shown, not run. Needs pdo_sqlite and curl.
// A click is on disk before add() returns and leaves it only after a final answer. It is sent with the same
// Idempotency-Key however often, so that it counts once. Run flush() from cron, one process at a time.
declare(strict_types=1);

final class NotAuthorized extends RuntimeException {}

final class ClickQueue
{
    private const CLICKS_MAX = 10000; // kept while offline; beyond it the oldest goes, counted in $dropped
    private const BACKOFF_S = [1, 2, 4, 8, 16, 32, 60];
    private const PATH = '/campaignapi/resources/v3/shortlinkclicks';

    public int $dropped = 0;
    private PDO $db;
    private int $failures = 0;

    /** @param ?Closure(string, string, string): void $onRefused short URL, code, description */
    public function __construct(string $file, private string $base, public string $key, private ?Closure $onRefused = null)
    {
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
            [$status, $answer, $retryAfter] = $this->send($row['id'], $row['body']);
            if ($status === 401) {
                throw new NotAuthorized($answer['description'] ?? '');
            }
            if ($status === 0 || $status === 429 || $status >= 500) {
                $wait = self::BACKOFF_S[min($this->failures++, count(self::BACKOFF_S) - 1)] * random_int(500, 1000) / 1000;
                return max($retryAfter, $wait);
            }
            // Anything else is final: 200 with an id, 200 with code 1010 (will never be recorded), or refused for good.
            $this->failures = 0;
            $this->db->prepare('DELETE FROM clicks WHERE n = ?')->execute([$row['n']]);
            if (!isset($answer['transaction-id']) && $this->onRefused !== null) {
                $click = json_decode($row['body'], true, flags: JSON_THROW_ON_ERROR);
                ($this->onRefused)($click['short-url'], (string) ($answer['code'] ?? ''), (string) ($answer['description'] ?? ''));
            }
        }
        return null;
    }

    /** @return array{int, array<string, mixed>, float} status (0: no answer), body, Retry-After in seconds */
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
            return [0, [], 0.0]; // no connection, a time-out
        }
        $status = (int) curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
        $answer = json_decode((string) $text, true);
        if ($status === 200 && !is_array($answer)) {
            return [0, [], 0.0]; // a proxy's page is no answer
        }
        return [$status, is_array($answer) ? $answer : [], $after];
    }
}
