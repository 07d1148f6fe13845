"""Texts of many languages, and the encodings that files in these languages usually have.

Each language has short texts and a longer one. They hold what real files hold: quotes, dashes and currency signs.
"""

# ruff: noqa: RUF001, E501
from __future__ import annotations

from typing import NamedTuple


class Sample(NamedTuple):
    """A text, its language, and an encoding in which it is usually stored."""

    language: str
    encoding: str
    text: str


# Language -> its encodings, and its texts.
_TEXTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "English": (
        ("cp1252",),
        (
            "It doesn’t open.",
            "The café’s price is £5 — “naïve” résumé writers pay 20 °C more.",
            "Revenue rose to €12.4 million in 2019 – its best year so far – while costs didn’t change.",
            "Dear Ms Hughes,\r\n\r\nThank you for your letter of 3 May. We’re sorry that the pump hasn’t arrived; the supplier’s van broke down near Leeds. You’ll receive it “as soon as possible”, at no extra cost (£0.00).\r\n\r\nYours sincerely,\r\nThe spare parts team\r\n",
        ),
    ),
    "French": (
        ("cp1252", "iso8859-15"),
        (
            "La clé est derrière le baromètre.",
            "L'été dernier, nous avons visité l'hôtel près de la forêt où les élèves étaient déjà arrivés. Ça va bien.",
            "Où est la gare ? À côté de l'église, tout près.",
            "Chère Madame,\n\nNous avons bien reçu votre réclamation concernant la pompe à eau livrée le 3 août. Elle sera échangée gratuitement dès réception de la pièce défectueuse à notre dépôt de Besançon. Le prix de 45 € vous sera remboursé. Veuillez agréer, Madame, l'expression de nos sentiments distingués.\n",
        ),
    ),
    "German": (
        ("cp1252", "iso8859-15"),
        (
            "Schlüssel hängen hinter der Tür.",
            "Die Straße war naß, und die Bäume am Fluß standen schön im Nebel. Über den Dächern flogen Vögel.",
            "Prüfung der Geräte: jährlich, spätestens im März",
            "Sehr geehrte Frau Müller,\n\nfür Ihre Anfrage danken wir Ihnen. Die gewünschte Pumpe ist zur Zeit nicht lieferbar, läßt sich aber bis Ende Februar beschaffen. Der Preis beträgt 45,20 € zuzüglich Porto. Mit freundlichen Grüßen\nJörg Schäfer\n",
        ),
    ),
    "Spanish": (
        ("cp1252",),
        (
            "¿Dónde está la señora Peña?",
            "El niño perdió la llave del almacén; la señora Peña guarda otra detrás del barómetro.",
            "Mañana habrá reunión a las 10. ¡No faltes!",
            "Estimado señor Núñez:\n\nLe informamos de que la bomba de agua que usted solicitó el día 3 de agosto está disponible en nuestro almacén. Podrá recogerla de lunes a viernes, según el horario habitual. Además, la garantía cubre cualquier avería durante los próximos dos años.\n",
        ),
    ),
    "Portuguese": (
        ("cp1252",),
        (
            "A reunião será amanhã às 9 horas.",
            "O avô não encontrou a chave; a irmã tem outra atrás do relógio, na estação de São João.",
            "Atenção: pressão máxima 3 bar",
            "Prezado senhor Gonçalves,\n\nInformamos que a bomba de água solicitada no mês de março já está disponível em nosso armazém. A manutenção é gratuita durante três anos, e as peças de reposição são enviadas sem custo. Agradecemos a sua atenção e a sua confiança.\n",
        ),
    ),
    "Italian": (
        ("cp1252",),
        (
            "La città è più bella di così.",
            "Perché non può andare? Però l'università è già aperta, lunedì e martedì.",
            "Gentile cliente, la pompa è già in magazzino e costa 45 €. La qualità è garantita per un anno; se però qualcosa non va, la sostituzione è gratuita. Il lunedì il negozio è chiuso, ma la segreteria è sempre disponibile. Cordiali saluti, Nicolò.\n",
        ),
    ),
    "Danish": (
        ("cp1252",),
        (
            "Nøglen ligger i køkkenet på hylden.",
            "På øen bor der få mennesker, og færgen sejler kun én gang om dagen. Både køkken og værelse er små.",
            "Kære Søren. Vi har desværre ikke modtaget pumpen endnu, men den bør være på lager i løbet af næste måned. Prisen er uændret, og du får den leveret uden gebyr. Hvis du har spørgsmål, så ring på hverdage før klokken seksten. Venlig hilsen, Jørgen Ågård\n",
        ),
    ),
    "Swedish": (
        ("cp1252",),
        (
            "Nyckeln hänger bakom dörren på övervåningen.",
            "Många människor åkte till ön för att äta räksmörgås på bryggan när det blåste.",
            "Bästa kund! Pumpen som ni beställde i början av året är nu på väg från vårt lager i Göteborg. Den väger åtta kilo och får inte lämnas utomhus. Återkom gärna om något är oklart, så hjälper vi er så fort vi kan. Vänliga hälsningar, Åsa Sjöström\n",
        ),
    ),
    "Polish": (
        ("cp1250", "iso8859-2"),
        (
            "Zażółć gęślą jaźń, łódź",
            "Klucz wisi za barometrem, a drugi leży w kuchni na półce przy oknie. Proszę go później oddać.",
            "Spotkanie odbędzie się w środę o dziesiątej, a nie w piątek.",
            "Szanowny Panie,\n\ndziękujemy za zamówienie złożone w październiku. Pompa wody, o którą Pan pytał, będzie dostępna dopiero w przyszłym miesiącu, ponieważ dostawca zgłosił opóźnienie. Wysyłka nastąpi niezwłocznie, bez dodatkowych opłat. Z poważaniem\nŁukasz Wiśniewski\n",
        ),
    ),
    "Czech": (
        ("cp1250", "iso8859-2"),
        (
            "Příliš žluťoučký kůň úpěl ďábelské ódy.",
            "Klíč visí za dveřmi a druhý leží v kuchyni na poličce vedle okna. Prosím, vraťte ho později.",
            "Vážený pane Dvořáku,\n\nděkujeme za vaši objednávku. Čerpadlo, které jste si objednal, bude k dispozici až příští měsíc, protože dodavatel hlásí zpoždění. Zásilku odešleme ihned, bez dalších poplatků. Těšíme se na další spolupráci. S pozdravem Jiří Šťastný\n",
        ),
    ),
    "Hungarian": (
        ("cp1250", "iso8859-2"),
        (
            "Árvíztűrő tükörfúrógép",
            "A kulcs az ajtó mögött lóg, a másik pedig a konyhában van, az ablak melletti polcon. Kérem, később adja vissza.",
            "Tisztelt Uram! Köszönjük megrendelését. A vízszivattyú, amelyről érdeklődött, csak a jövő hónapban lesz elérhető, mert a szállító késést jelentett. A csomagot azonnal, külön költség nélkül küldjük. Üdvözlettel: Kovács Győző\n",
        ),
    ),
    "Russian": (
        ("cp1251", "koi8-r", "cp866", "iso8859-5"),
        (
            "Ключ висит за дверью.",
            "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
            "Совещание состоится в среду в 10 часов утра",
            "Уважаемый Иван Петрович!\n\nБлагодарим Вас за заказ. Насос, о котором Вы спрашивали, появится на складе только в следующем месяце, так как поставщик сообщил о задержке. Доставка будет бесплатной. Если у Вас есть вопросы, позвоните нам в рабочее время. С уважением, отдел запасных частей.\n",
        ),
    ),
    "Ukrainian": (
        ("cp1251",),
        (
            "Ключ висить за дверима, а другий лежить на кухні.",
            "Шановний Іване! Дякуємо за ваше замовлення. Насос, про який ви питали, з'явиться на складі лише наступного місяця, бо постачальник повідомив про затримку. Доставка буде безкоштовною. Її здійснить наша компанія.\n",
        ),
    ),
    "Greek": (
        ("cp1253", "iso8859-7"),
        (
            "Το κλειδί είναι πίσω από την πόρτα.",
            "Η συνάντηση θα γίνει την Τετάρτη στις δέκα το πρωί, όχι την Παρασκευή.",
            "Αγαπητέ κύριε Παπαδόπουλε, σας ευχαριστούμε για την παραγγελία σας. Η αντλία που ζητήσατε θα είναι διαθέσιμη τον επόμενο μήνα, επειδή ο προμηθευτής ανακοίνωσε καθυστέρηση. Η αποστολή θα γίνει αμέσως και χωρίς πρόσθετη χρέωση.\n",
        ),
    ),
    "Turkish": (
        ("cp1254",),
        (
            "Anahtar kapının arkasında asılı duruyor.",
            "Toplantı çarşamba günü saat onda başlayacak, cuma günü değil. Lütfen geç kalmayınız.",
            "Sayın müşterimiz, siparişiniz için teşekkür ederiz. İstediğiniz su pompası önümüzdeki ay depomuzda olacak, çünkü tedarikçi gecikme bildirdi. Gönderim ücretsiz yapılacaktır. Sorularınız için bizi hafta içi arayabilirsiniz. Saygılarımızla, yedek parça bölümü\n",
        ),
    ),
    "Hebrew": (
        ("cp1255",),
        (
            "המפתח תלוי מאחורי הדלת.",
            "הישיבה תתקיים ביום רביעי בשעה עשר בבוקר, ולא ביום שישי.",
            "לקוח יקר, תודה על הזמנתך. משאבת המים שביקשת תהיה זמינה במחסן רק בחודש הבא, מפני שהספק הודיע על עיכוב. המשלוח יהיה ללא תשלום נוסף. לשאלות אפשר להתקשר בימי העבודה.\n",
        ),
    ),
    "Arabic": (
        ("cp1256", "iso8859-6"),
        (
            "المفتاح معلق خلف الباب.",
            "سيعقد الاجتماع يوم الأربعاء في الساعة العاشرة صباحا وليس يوم الجمعة.",
            "عزيزي العميل، شكرا على طلبكم. مضخة المياه التي طلبتموها ستكون متوفرة في المستودع في الشهر القادم، لأن المورد أبلغنا عن تأخير. سيكون الشحن مجانيا. للاستفسار يرجى الاتصال بنا في أيام العمل.\n",
        ),
    ),
    "Japanese": (
        ("shift_jis", "euc-jp", "iso-2022-jp"),
        (
            "鍵はドアの裏に掛けてあります。",
            "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
            "会議は水曜日の午前10時に始まります。",
            "お客様各位\n\nこのたびはご注文いただき、誠にありがとうございます。ご希望の給水ポンプは、仕入先から遅延の連絡があったため、来月の入荷となります。送料は無料です。ご不明な点がございましたら、平日にお電話ください。\n",
        ),
    ),
    "Chinese": (
        ("gb18030",),
        (
            "钥匙挂在门后面，另一把在厨房。",
            "中华人民共和国的首都是北京。这座城市有三千多年的历史，是全国的政治中心、文化中心。",
            "会议将于星期三上午10点开始。",
            "尊敬的客户：\n\n感谢您的订购。您询问的水泵要到下个月才能到货，因为供应商通知我们会有延误。货物到达后我们会立即发货，不收取额外费用。如有疑问，请在工作日致电我们。\n",
        ),
    ),
    "Traditional Chinese": (
        ("big5",),
        (
            "鑰匙掛在門後面，另一把在廚房。",
            "會議將於星期三上午十點開始，請準時參加，謝謝大家的合作。",
            "親愛的客戶：\n\n感謝您的訂購。您詢問的水泵要到下個月才能到貨，因為供應商通知我們會有延誤。貨物到達後我們會立即發貨，不收取額外費用。如有疑問，請在工作日致電我們。\n",
        ),
    ),
    "Korean": (
        ("euc-kr",),
        (
            "열쇠는 문 뒤에 걸려 있습니다.",
            "회의는 수요일 오전 열 시에 시작합니다. 금요일이 아닙니다.",
            "고객님께,\n\n주문해 주셔서 감사합니다. 문의하신 물 펌프는 공급업체의 지연으로 다음 달에 입고될 예정입니다. 도착하는 대로 바로 보내 드리며 추가 비용은 없습니다. 궁금한 점이 있으면 평일에 전화해 주십시오.\n",
        ),
    ),
}

SAMPLES = [
    Sample(language, encoding, text)
    for language, (encodings, texts) in _TEXTS.items()
    for encoding in encodings
    for text in texts
    if text == text.encode(encoding, "ignore").decode(encoding)
]
